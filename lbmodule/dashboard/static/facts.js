// The figures of a backend and of a pool.

import { count, duration, millis, percent, rate, volume, weight } from './format.js';
import { cap, warmth } from './status.js';

// list makes a list of figures. Unknown ones are left out.
function list() {
	const found = [];
	return { found, add: (label, value, tone = null) => {
		if (value !== undefined && value !== null && value !== '') {
			found.push({ label, value, tone });
		}
	} };
}

// addBytes adds the bytes in total and per second, if the server counts them.
function addBytes(add, data, rates) {
	for (const [label, name] of [['Bytes in', 'bytes_in'], ['Bytes out', 'bytes_out']]) {
		add(label, data[name] === undefined ? '' : [volume(data[name]), rates[name] === undefined ? '' : `${volume(rates[name])}/s`].filter(Boolean).join(', '));
	}
}

// backendFacts returns the figures of a backend.
export function backendFacts(b, model) {
	const { data, rates } = b;
	const { found, add } = list();
	const ms = data.latency_ms;
	const left = model.until(data.until);
	add('Requests/s', rate(rates.requests));
	add('Errors', percent(b.errorShare), b.errorShare >= 0.05 ? 'bad' : null);
	add('In flight', cap(data) > 0 ? `${count(data.in_flight)} of ${count(cap(data))}${data.limit ? ' (auto)' : ''}` : count(data.in_flight));
	add('Weight', weight(data.weight));
	add('Effective weight', data.effective_weight === undefined ? '' : weight(data.effective_weight));
	add('Slow start', data.usable && warmth(data) < 1 ? percent(warmth(data)) : '');
	for (const percentile of ms ? ['p50', 'p95', 'p99', 'ewma'] : []) {
		add(percentile === 'ewma' ? 'Moving average' : percentile, ms[percentile] === undefined ? '' : millis(ms[percentile]));
	}
	add('Requests', count(data.requests));
	add('Failures', count(data.failures));
	add('Retries', data.retries === undefined ? '' : count(data.retries));
	for (const [name, n] of Object.entries(data.codes ?? {})) {
		add(name, count(n));
	}
	addBytes(add, data, rates);
	add('Health', data.health);
	add('Was down', data.downs > 0 ? `${data.downs === 1 ? 'once' : `${count(data.downs)} times`}, ${duration(data.down_seconds)} in all` : '');
	add('Breaker', data.breaker === 'open' && left !== undefined ? `open, tried in ${duration(left)}` : data.breaker?.replace('_', '-'), data.breaker === 'closed' ? null : 'warn');
	add('State', data.state === 'ready' ? '' : data.state);
	const check = data.last_check;
	if (check) {
		const age = model.since(check.time);
		add('Last check', [check.ok ? '' : 'failed', check.code, millis(check.ms), age === undefined ? '' : `${duration(age)} ago`].filter(Boolean).join(', '), check.ok ? null : 'bad');
	}
	add('Zone', data.zone);
	add('Role', data.backup ? 'backup' : '');
	add('From', data.source);
	add('Stored', data.persisted === undefined ? '' : data.persisted ? 'yes' : 'no: lost at a restart', data.persisted === false ? 'warn' : null);
	return found;
}

const CAUSES = { no_backend: 'No backend usable', limit: 'All at max_requests', queue_full: 'Queue full', queue_timeout: 'Queue timeout', session: 'Session\'s backend out',
	drained: 'drain_timeout passed', shutdown: 'Shutting down', source: 'No list of backends' };

// poolFacts returns the figures of a pool.
export function poolFacts({ data, total, backends }) {
	const { found, add } = list();
	const latency = data.latency_ms;
	add('Requests/s', rate(data.per_second?.requests ?? total.rates.requests));
	add('Errors', percent(total.errorShare), total.errorShare >= 0.05 ? 'bad' : null);
	add('In flight', count(total.inFlight));
	add('Usable', `${count(data.usable)} of ${count(backends.size)}`);
	add('Queue', data.queue === undefined ? '' : count(data.queue), data.queue > 0 ? 'warn' : null);
	for (const percentile of latency ? ['p50', 'p95', 'p99'] : []) {
		add(percentile, millis(latency[percentile]));
	}
	add('Policy', data.policy?.replace(/^lb_/, ''));
	add('Retries left', data.retry_budget === undefined ? '' : count(Math.floor(data.retry_budget)), data.retry_budget < 1 ? 'warn' : null);
	add('Fairness', data.fairness === undefined ? '' : percent(data.fairness));
	add('Slots taken', data.utilization > 0 ? percent(data.utilization) : '');
	add('Requests', data.requests === undefined ? '' : count(data.requests));
	addBytes(add, data, total.rates);
	add('Clients left', data.canceled > 0 ? count(data.canceled) : '');
	for (const [cause, n] of Object.entries(data.refused ?? {})) {
		add(`Refused: ${CAUSES[cause] ?? cause}`, n > 0 ? count(n) : '', data.per_second?.refused?.[cause] > 0 ? 'bad' : null);
	}
	return found;
}
