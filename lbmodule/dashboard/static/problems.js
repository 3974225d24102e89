// The list of problems, the worst first. Backends of one pool with the same problem are listed as one.

import { byName, count, duration, percent, plural, rate } from './format.js';
import { STATUSES, cap } from './status.js';

const BAD_SHARE = 0.05; // share of failed requests from which on a backend that is up counts as a problem
const MUCH_REFUSED = 0.5; // share of refused requests from which on a rate limit counts as a problem

// problems returns { key, tone, rank, title, why, since, pool, backend } for each problem. A problem of several backends has no backend.
export function problems(model) {
	const found = [];
	for (const pool of model.pools.values()) {
		found.push(...ofPool(pool, model.pools.size > 1), ...ofSources(pool, model), ...ofBackends(pool, model));
	}
	for (const [name, zone] of model.zones) {
		found.push(...ofZone(name, zone));
		if (zone.data.store && !zone.data.store.available) {
			found.push({ tone: 'warn', rank: 5, key: `zone ${name}`, title: `rate limit ${name}: its store does not answer`, why: `${count(zone.data.store.errors)} errors so far` });
		}
	}
	return found.sort((a, b) => a.rank - b.rank || byName(a.title, b.title));
}

// ofZone returns the problem of a rate limit that refuses at least half of its requests.
function ofZone(name, { rates, data }) {
	const refused = data.dry_run ? 0 : rates.refused ?? 0;
	const share = refused / (refused + (rates.allowed ?? 0));
	if (refused < 1 || share < MUCH_REFUSED) {
		return [];
	}
	const all = share > 0.995;
	return [{ tone: all ? 'bad' : 'warn', rank: all ? 1 : 4, key: `limit ${name}`, title: `rate limit ${name} refuses ${all ? 'all' : percent(share)} of its requests`, why: `${rate(refused)} requests/s` }];
}

// reported returns the problems that the server reports.
function reported({ name, data }, several) {
	return (data.problems ?? []).map(({ severity, backend, what, why }, i) => ({
		tone: severity, rank: severity === 'bad' ? 1 : 4, failing: severity === 'bad', pool: name, backend, key: `${name} ${i} ${what.replace(/[0-9.]+/g, '')} ${backend ?? ''}`,
		title: `${backend ? several ? `${backend} in ${name}` : backend : name} ${what}`, why: why ?? '',
	}));
}

function ofPool(pool, several) {
	const { name, data } = pool;
	const found = reported(pool, several);
	const size = data.backends?.length ?? 0;
	if (data.state === 'down') {
		found.push({ tone: 'bad', rank: 0, pool: name, key: `${name} is down`, title: `${name} is down`, why: size > 0 ? `none of its ${plural(size, 'backend')} is usable; requests get 503` : 'it has no backends; requests get 503' });
	}
	if (data.state === 'panic') {
		found.push({ tone: 'bad', rank: 1, pool: name, key: `${name} is in panic`, title: `${name} is in panic`, why: `${data.usable} of ${size} usable: requests go to all that can be reached` });
	}
	if (data.queue > 0) {
		found.push({ tone: 'warn', rank: 4, pool: name, key: `${name} has a queue`, title: `${name} has a queue`, why: `${plural(data.queue, 'request')} ${data.queue === 1 ? 'waits' : 'wait'} for a free slot` });
	}
	if (data.retry_budget < 1 && pool.total.rates.requests > 0) {
		found.push({ tone: 'warn', rank: 4, pool: name, key: `${name} has spent its retry budget`, title: `${name} has spent its retry budget`, why: 'failed requests are not retried' });
	}
	return found;
}

// ofSources returns the problems of discovery, a canary that was rolled back, and a subset without a usable backend.
function ofSources(pool, model) {
	const { name, data } = pool;
	const found = (data.discovery ?? []).filter((d) => !d.ok).map((d) => ({
		tone: 'warn', rank: 3, pool: name, key: `${name} ${d.source}`, title: `${name} gets no good list of backends`, since: duration(model.since(d.since)),
		why: `${d.source}: ${d.error}; ${d.targets > 0 ? `its last good list is used, with ${plural(d.targets, 'backend')}` : 'there is no earlier list'}`,
	}));
	if (data.canary?.state === 'rolled_back') {
		found.push({ tone: 'warn', rank: 3, pool: name, key: `${name} canary`, title: `the canary of ${name} is rolled back`, since: duration(model.since(data.canary.since)),
			why: data.canary.reason === 'by hand' ? 'by hand' : `its ${data.canary.reason} were worse than those of the others` });
	}
	if (data.subset?.further > 0) {
		found.push({ tone: 'warn', rank: 3, pool: name, key: `${name} goes beyond its subset`, title: `${name} uses ${plural(data.subset.further, 'backend')} outside its subset`, why: 'no backend of the subset was usable' });
	}
	return found;
}

function ofBackends(pool, model) {
	const groups = new Map();
	for (const b of pool.backends.values()) {
		const trouble = troubleOf(b);
		if (trouble) {
			const kind = STATUSES[b.status].group === 'up' ? 'up' : b.status;
			const key = `${kind} ${b.status === 'down' ? trouble.why : ''}`;
			groups.set(key, [...groups.get(key) ?? [], { b, ...trouble }]);
		}
	}
	return [...groups].map(([kind, group]) => {
		const [{ b, tone, rank, what, why, detail }] = group;
		// The API has no time at which a usable backend became full or began to fail.
		const since = Math.min(...group.map(({ b }) => (b.data.usable ? undefined : model.since(b.data.since)) ?? Infinity));
		const common = { key: `${pool.name} ${kind}`, tone, rank, pool: pool.name, since: Number.isFinite(since) ? duration(since) : undefined };
		if (group.length === 1) {
			const left = b.status === 'open' ? model.until(b.data.until) : undefined;
			const ends = left === undefined ? undefined : `tried again in ${duration(left)}`;
			return { ...common, backend: b.name, title: `${model.pools.size > 1 ? `${b.name} in ${pool.name}` : b.name} ${what}`, why: [why, detail, ends].filter(Boolean).join(': ') };
		}
		const theyDo = STATUSES[b.status].group === 'up' ? `fail ${percent(BAD_SHARE)} of their requests or more` : what.replace(/^is /, 'are ');
		return { ...common, group: STATUSES[b.status].group, title: `${group.length} of ${pool.backends.size} in ${pool.name} ${theyDo}`, why };
	});
}

const WHAT = { down: 'is down', open: 'is out: breaker open', half_open: 'is being tried: breaker half-open', full: 'is full', unchecked: 'is not checked yet' };

// troubleOf returns the problem of a backend, null if there is none.
function troubleOf(b) {
	const { tone, group } = STATUSES[b.status];
	const { data } = b;
	if (group === 'trouble') {
		const check = data.last_check;
		const detail = b.status === 'down' && check && !check.ok ? checkError(check) : undefined;
		const why = b.status === 'full' ? `${data.in_flight} of ${cap(data)} requests in flight` : b.status === 'down' ? data.reason ?? '' : '';
		return { tone, rank: b.status === 'down' ? 2 : tone === 'bad' ? 3 : 4, what: WHAT[b.status], why, detail };
	}
	if (group === 'up' && b.errorShare >= BAD_SHARE && b.rates.requests >= 1) {
		return { tone: 'warn', rank: 4, what: `fails ${percent(b.errorShare)} of its requests`, why: '' };
	}
	return null;
}

// checkError describes why a check failed.
export function checkError(check) {
	return check.error || (check.code ? `status ${check.code}` : 'failed');
}
