// The drawer with all details of one pool or backend.

import { pill, why } from './columns.js';
import { $, Keyed, attr, el, hide, text } from './dom.js';
import { duration, moment } from './format.js';
import { backendFacts, poolFacts } from './facts.js';
import { seconds } from './model.js';
import { Past } from './past.js';
import { checkError } from './problems.js';
import { changeLine, eventLine } from './rail.js';
import { STATUSES, begun, poolState } from './status.js';
import { Why, configLines, routeLines } from './why.js';

const KEPT = 30; // maximum number of events shown

export class Detail {
	constructor(view, actions) {
		this.view = view;
		this.actions = actions;
		this.node = $('detail');
		this.make();
		this.node.addEventListener('close', () => {
			if (this.open) {
				this.open = false;
				this.past.stop();
				view.set({ pool: '', backend: '' });
			}
		});
		// The backdrop belongs to the dialog: a click on it closes the drawer.
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
		this.past = new Past(this.view);
		this.explained = new Why();
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
		this.editsPart = el('section', null, el('h3', null, 'Changed at run time'), this.edits.parent);
		this.config = el('pre');
		this.configPart = el('section', null, el('h3', null, 'Caddyfile lines that make it permanent'), this.config);
		this.lanes = new Keyed(el('ul', { class: 'lanes-here' }), () => {
			const node = el('li');
			return { node, update: ({ line }) => text(node, line) };
		});
		this.lanesPart = el('section', null, el('h3', null, 'Routes that lead here'), this.lanes.parent);
		this.eventsPart = el('section', null, el('h3', null, 'Events'), this.events.parent);
		this.content = el('div', { class: 'content' },
			el('header', null, el('div', null, this.title, this.where), close),
			el('p', { class: 'now' }, this.mark.node, this.since), this.why, this.acts,
			this.explained.node, this.past.node,
			el('section', null, el('h3', null, 'Figures'), this.facts.parent),
			this.editsPart, this.configPart, this.lanesPart, this.eventsPart, el('div', { class: 'notes-here toasts', role: 'status' }));
		this.node.append(this.content);
	}

	show(model) {
		const { pool: poolName, backend: name } = this.view;
		if (poolName === '') {
			if (this.open) {
				this.open = false;
				this.past.stop();
				this.node.close();
			}
			return;
		}
		const pool = model.pools.get(poolName);
		this.backend = pool?.backends.get(name);
		if (!this.open) {
			this.open = true;
			this.node.showModal();
			this.title.focus();
		}
		text(this.title, name || poolName);
		this.past.show(model);
		this.explained.show(this.backend);
		hide(this.lanesPart, true);
		if (this.backend) {
			this.showBackend(this.backend, model);
		} else if (pool && name === '') {
			this.showPool(pool, model);
		} else {
			this.gone(poolName, model);
		}
	}

	gone(pool, model) {
		text(this.where, '');
		this.mark.show('Gone', 'idle');
		text(this.since, '');
		text(this.why, model.pools.has(pool) ? `There is no such backend in ${pool} any more.` : `There is no pool ${pool} any more.`);
		for (const part of [this.acts, this.editsPart, this.configPart, this.eventsPart]) {
			hide(part, true);
		}
		this.facts.show([], fact => fact.label);
	}

	showPool(pool, model) {
		const { data } = pool;
		const { label, tone } = poolState(data);
		text(this.where, 'pool');
		this.mark.show(label, tone);
		text(this.since, '');
		text(this.why, [...(data.problems ?? []).map(p => [p.backend, p.what, p.why && `(${p.why})`].filter(Boolean).join(' ')), ...(data.warnings ?? [])].join('; '));
		attr(this.why, 'data-tone', tone);
		hide(this.acts, true);
		this.facts.show(poolFacts(pool), fact => fact.label);
		const diff = model.snapshot.diffs?.[pool.name];
		this.showChanges((diff?.changes ?? []).map(change => ({ pool: pool.name, model, change })), diff?.caddyfile ?? '');
		const lanes = routeLines(model, pool.name);
		hide(this.lanesPart, lanes.length === 0);
		this.lanes.show(lanes.map((line, i) => ({ line, i })), ({ i }) => i);
		this.showEvents(model.events.filter(e => e.data.pool === pool.name), model);
	}

	showChanges(edits, lines) {
		hide(this.editsPart, edits.length === 0);
		this.edits.show(edits, item => `${item.change.backend} ${item.change.field}`);
		hide(this.configPart, lines === '');
		text(this.config, lines);
	}

	showEvents(events, model) {
		hide(this.eventsPart, events.length === 0);
		this.events.show(events.slice(0, KEPT).map(event => ({ event, model })), ({ event }) => `${event.boot}-${event.id}`);
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
		this.facts.show(backendFacts(b, model), fact => fact.label);
		const edits = (data.edits ?? []).map(edit => ({ pool: b.pool.name, model, change: { ...edit, backend: data.name, running: edit.value } }));
		this.showChanges(edits, configLines(model.snapshot.diffs?.[b.pool.name]?.caddyfile ?? '', data.address));
		this.showEvents(model.events.filter(e => e.data.pool === b.pool.name && e.data.backend === b.name), model);
	}
}
