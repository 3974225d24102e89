// The express lane of a server: how much it serves, and the reasons why it left the rest to Caddy.

import { Keyed, attr, el, hide, text, width } from './dom.js';
import { count, percent, plural, rate } from './format.js';
import { Spark } from './spark.js';

const REASONS = 8; // maximum number shown
const ROUTES = 50; // maximum number shown

export function makeLane() {
	const name = el('strong');
	const state = el('span', { class: 'tag' });
	const served = el('span', { class: 'number' });
	const total = el('span', { class: 'second' });
	const spark = new Spark(60, 22);
	const filled = el('span');
	const reasons = el('div', { class: 'tags' });
	const summary = el('summary');
	const routes = el('ul');
	const more = el('p', { class: 'second' });
	const details = el('details', null, summary, routes, more);
	const node = el('div', { class: 'zone lane' }, el('span', { class: 'first' }, name, state), served, total, spark.node,
		el('span', { class: 'bar thin', 'aria-hidden': 'true' }, filled), reasons, details);
	const marks = new Keyed(reasons, () => makeMark());
	const lines = new Keyed(routes, () => makeRoute());
	return { node, update: lane => {
		const { data, handedOver, rates } = lane;
		text(name, data.listen?.join(' ') || data.server);
		attr(name, 'title', data.server);
		text(state, data.on ? 'on' : data.reason === 'off' ? 'off' : `off: ${data.reason}`);
		attr(state, 'data-tone', data.on ? 'ok' : 'idle');
		text(served, `${rate(rates.served)} served/s`);
		const share = data.served / (data.served + handedOver);
		text(total, [`${count(data.served)} served`, `${count(handedOver)} left to Caddy`, handedOver > 0 && data.served > 0 ? percent(share) : ''].filter(Boolean).join(' · '));
		spark.show(lane.served);
		width(filled, share || 0);
		marks.show(largest(data.handed_over ?? {}), ([reason]) => reason);
		hide(reasons, handedOver === 0);
		const left = (data.routes ?? []).filter(route => !route.served);
		hide(details, left.length === 0);
		text(summary, `${plural(left.length, 'route')} left to Caddy`);
		lines.show(left.slice(0, ROUTES).map((route, i) => ({ route, i })), ({ i }) => i);
		text(more, left.length > ROUTES ? `and ${count(left.length - ROUTES)} more` : '');
	} };
}

// largest returns the reasons with the most requests, and the sum of the others.
function largest(handedOver) {
	const all = Object.entries(handedOver).sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
	const rest = all.splice(REASONS);
	return rest.length > 0 ? [...all, ['others', rest.reduce((n, [, m]) => n + m, 0)]] : all;
}

function makeMark() {
	const node = el('span', { class: 'tag' });
	return { node, update: ([reason, n]) => text(node, `${reason} ${count(n)}`) };
}

function makeRoute() {
	const place = el('span', { class: 'first' });
	const why = el('span', { class: 'second' });
	return { node: el('li', { class: 'two' }, place, why), update: ({ route }) => {
		text(place, `${route.hosts?.join(', ') || 'all hosts'} ${route.paths?.join(', ') ?? ''}`.trim());
		text(why, `${[route.handler, route.pool].filter(Boolean).join(' ')}: ${route.reason}`);
	} };
}
