// All that is known of one backend, in a drawer.

import { pill, why } from './columns.js';
import { $, Keyed, attr, el, hide, text } from './dom.js';
import { count, duration, millis, moment, percent, rate, weight } from './format.js';
import { seconds } from './model.js';
import { checkError } from './problems.js';
import { changeLine, eventLine } from './rail.js';
import { Spark } from './spark.js';
import { STATUSES, begun, cap, warmth } from './status.js';

const KEPT = 30; // events of the backend

export class Detail {
	constructor(view, actions) {
		this.view = view;
		this.actions = actions;
		this.node = $('detail');
		this.make();
		this.node.addEventListener('close', () => {
			if (this.open) {
				this.open = false;
				view.set({ pool: '', backend: '' });
			}
		});
		// A click beside the drawer closes it.
		this.node.addEventListener('click', event => {
			if (event.target === this.node) {
				this.node.close();
			}
		});
	}

	make() {
		this.title = el('h2', { id: 'detail-title', tabindex: -1 });
		this.where = el('p', { class: 'second' });
		this.mark = pill();
		this.since = el('span', { class: 'second' });
		this.why = el('p', { class: 'why' });
		const close = el('button', { type: 'button', class: 'quiet square', 'aria-label': 'Close' }, '×');
		close.addEventListener('click', () => this.node.close());
		this.buttons = ['drain', 'maintenance', 'ready', 'weight'].map(kind => {
			const labels = { drain: 'Drain', maintenance: 'Maintenance', ready: 'Ready', weight: 'Weight' };
			const node = el('button', { type: 'button', 'data-action': kind }, `${labels[kind]} …`);
			node.addEventListener('click', () => this.actions.ask(kind, this.backend));
			return { kind, node };
		});
		this.acts = el('div', { class: 'acts', role: 'group', 'aria-label': 'Change this backend' }, ...this.buttons.map(b => b.node));
		this.spark = new Spark(120, 64, 'tall');
		this.top = el('span', { class: 'top' });
		this.from = el('span');
		this.facts = new Keyed(el('dl', { class: 'numbers' }), () => {
			const [label, value] = [el('dt'), el('dd')];
			return { node: el('div', null, label, value), update: fact => {
				text(label, fact.label);
				text(value, fact.value);
				attr(value, 'data-tone', fact.tone);
			} };
		});
		this.edits = new Keyed(el('div'), () => {
			const line = changeLine(this.actions);
			attr(line.title, 'disabled', true);
			return line;
		});
		this.events = new Keyed(el('ol', { class: 'feed' }), ({ event }) => {
			const line = eventLine(event);
			return { node: line.node, update: ({ model }) => line.update(model) };
		});
		this.editsPart = el('section', null, el('h3', null, 'Changed while running'), this.edits.parent);
		this.eventsPart = el('section', null, el('h3', null, 'Events'), this.events.parent);
		this.content = el('div', { class: 'content' },
			el('header', null, el('div', null, this.title, this.where), close),
			el('p', { class: 'now' }, this.mark.node, this.since), this.why, this.acts,
			el('section', { class: 'chart' }, el('h3', null, 'Requests and errors per second'), this.top, this.spark.node, el('p', { class: 'times second' }, this.from, el('span', null, 'now'))),
			el('section', null, el('h3', null, 'Figures'), this.facts.parent),
			this.editsPart, this.eventsPart, el('div', { class: 'notes-here toasts', role: 'status' }));
		this.node.append(this.content);
	}

	show(model) {
		const { pool, backend: name } = this.view;
		if (name === '') {
			if (this.open) {
				this.open = false;
				this.node.close();
			}
			return;
		}
		this.backend = model.pools.get(pool)?.backends.get(name);
		if (!this.open) {
			this.open = true;
			this.node.showModal();
			this.title.focus();
		}
		text(this.title, name);
		if (!this.backend) {
			this.gone(pool, model);
			return;
		}
		this.showBackend(this.backend, model);
	}

	gone(pool, model) {
		text(this.where, '');
		this.mark.show('Gone', 'idle');
		text(this.since, '');
		text(this.why, model.pools.has(pool) ? `There is no such backend in ${pool} any more.` : `There is no pool ${pool} any more.`);
		hide(this.acts, true);
	}

	showBackend(b, model) {
		const { data } = b;
		const { label, tone } = STATUSES[b.status];
		text(this.where, `${data.address === data.name ? '' : `${data.address} `}in ${b.pool.name}`);
		this.mark.show(label, tone);
		const since = model.since(begun(b));
		text(this.since, since === undefined ? '' : `for ${duration(since)}, since ${moment(seconds(data.since) * 1000)}`);
		const check = data.last_check;
		text(this.why, why(b) || (check && !check.ok ? `last check: ${checkError(check)}` : ''));
		attr(this.why, 'data-tone', tone);
		hide(this.acts, !this.actions.allowed);
		for (const { kind, node } of this.buttons) {
			node.disabled = data.state === kind || Boolean(data.removing);
		}
		this.spark.show(b.requests, b.errors);
		text(this.top, rate(this.spark.top));
		text(this.from, `${duration(this.spark.shown)} ago`);
		this.facts.show(facts(b, model), fact => fact.label);
		const edits = (data.edits ?? []).map(edit => ({ pool: b.pool.name, model, change: { ...edit, backend: data.name, running: edit.value } }));
		hide(this.editsPart, edits.length === 0);
		this.edits.show(edits, item => item.change.field);
		const events = model.events.filter(e => e.data.pool === b.pool.name && e.data.backend === b.name).slice(0, KEPT);
		hide(this.eventsPart, events.length === 0);
		this.events.show(events.map(event => ({ event, model })), ({ event }) => `${event.boot}-${event.id}`);
	}
}

// facts are the figures that are known.
function facts(b, model) {
	const { data, rates } = b;
	const found = [];
	const add = (label, value, tone = null) => {
		if (value !== undefined && value !== null && value !== '') {
			found.push({ label, value, tone });
		}
	};
	const ms = data.latency_ms;
	const left = model.until(data.until);
	add('Requests/s', rate(rates.requests));
	add('Errors', percent(b.errorShare), b.errorShare >= 0.05 ? 'bad' : null);
	add('In flight', cap(data) > 0 ? `${count(data.in_flight)} of ${count(cap(data))}${data.limit ? ' (auto)' : ''}` : count(data.in_flight));
	add('Weight', weight(data.weight));
	add('Weight in force', data.effective_weight === undefined ? '' : weight(data.effective_weight));
	add('Slow start', data.usable && warmth(data) < 1 ? percent(warmth(data)) : '');
	for (const percentile of ms ? ['p50', 'p95', 'p99', 'ewma'] : []) {
		add(percentile === 'ewma' ? 'Typical' : percentile, ms[percentile] === undefined ? '' : millis(ms[percentile]));
	}
	add('Requests', count(data.requests));
	add('Failures', count(data.failures));
	add('Retries', data.retries === undefined ? '' : count(data.retries));
	for (const [name, n] of Object.entries(data.codes ?? {})) {
		add(name, count(n));
	}
	add('Health', data.health);
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
