// The fleet: the nodes that share a storage, and the differences between them.

import { $, Keyed, attr, el, hide, text } from './dom.js';
import { count, duration, plural, rate } from './format.js';

const DIFFERENCES = 50; // maximum number shown

const KINDS = {
	version: 'Versions differ', config: 'Configs differ', pool: 'Pool missing on some nodes', members: 'Backends of the pool differ', edits: 'Edits differ',
	usable: 'Usable on some nodes only', breaker: 'Breakers differ', state: 'States differ', weight: 'Weights differ',
};

export class Fleet {
	constructor() {
		this.nodes = new Keyed($('fleet-nodes'), () => makeNode());
		this.differences = new Keyed($('fleet-differences'), () => makeDifference());
	}

	// show shows the fleet. A node without a shared storage has none.
	show({ snapshot: { fleet } }) {
		hide($('fleet'), !fleet);
		if (!fleet) {
			return;
		}
		this.nodes.show(fleet.nodes ?? [], node => node.id);
		const all = fleet.differences ?? [];
		this.differences.show(all.slice(0, DIFFERENCES), d => `${d.kind} ${d.pool ?? ''} ${d.backend ?? ''}`);
		const more = Math.max(all.length - DIFFERENCES, 0) + (fleet.more ?? 0);
		text($('fleet-rest'), [
			all.length === 0 ? 'No differences.' : '', more > 0 ? `and ${plural(more, 'more difference')}` : '',
			fleet.error ? `storage: ${fleet.error}; this view is ${duration(fleet.age)} old` : '',
		].filter(Boolean).join(' '));
	}
}

function makeNode() {
	const name = el('strong');
	const state = el('span', { class: 'tag' });
	const usable = el('span', { class: 'number' });
	const second = el('span', { class: 'second' });
	const node = el('div', { class: 'zone lane' }, el('span', { class: 'first' }, name, state), usable, second);
	return { node, update: n => {
		const sum = of => (n.pools ?? []).reduce((all, pool) => all + (pool[of] ?? 0), 0);
		text(name, n.label);
		attr(name, 'title', n.id);
		text(state, n.this ? 'this one' : n.state);
		attr(state, 'data-tone', n.state === 'alive' ? 'ok' : 'bad');
		text(usable, n.alone ? '' : `${count(sum('usable'))} of ${count(sum('total'))} usable`);
		attr(usable, 'data-tone', sum('usable') < sum('total') ? 'warn' : null);
		text(second, [
			n.state === 'gone' ? `silent for ${duration(n.silent)}` : '', n.alone ? '' : `${rate(sum('requests'))} requests/s`, n.admin, n.version,
		].filter(Boolean).join(' · '));
	} };
}

function makeDifference() {
	const what = el('span', { class: 'first' });
	const values = el('span', { class: 'second' });
	return { node: el('li', { class: 'two' }, what, values), update: d => {
		text(what, [KINDS[d.kind] ?? d.kind, [d.pool, d.backend].filter(Boolean).join(' / ')].filter(Boolean).join(': '));
		text(values, d.values.map(({ value, nodes }) => `${value || 'none'}: ${nodes.join(', ')}`).join(' · '));
	} };
}
