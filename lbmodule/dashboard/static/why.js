// Why a backend gets requests or not, the Caddyfile lines for its changes, and the routes that lead to a pool.

import { el, hide, own, text } from './dom.js';
import { count, plural, weight } from './format.js';

const EVERY = 5000; // milliseconds

// Why shows why the next request can go to a backend or not. It asks the server again while the panel is open, as `explain` of the API does.
export class Why {
	constructor() {
		this.words = el('p', { class: 'explained' });
		this.node = el('section', { hidden: true }, el('h3', null, 'The next request'), this.words);
	}

	show(backend) {
		const key = backend ? JSON.stringify([backend.pool.name, backend.name]) : '';
		if (this.key !== key) {
			this.key = key;
			this.asked = undefined;
			hide(this.node, true);
		}
		if (key !== '' && (this.asked === undefined || performance.now() - this.asked >= EVERY)) {
			this.ask(key, backend);
		}
	}

	async ask(key, backend) {
		this.asked = performance.now();
		try {
			const answer = await fetch(own(`explain?${new URLSearchParams({ pool: backend.pool.name, backend: backend.name })}`));
			const found = answer.ok ? await answer.json() : null;
			if (this.key === key) {
				hide(this.node, !found);
				text(this.words, found ? words(found) : '');
			}
		} catch {
			// The stream reports that the server cannot be reached.
		}
	}
}

// words says whether a backend can be chosen, and which values the policy compares.
function words({ policy, in: may, reason, score, effective_weight: force, in_flight: flight, others }) {
	const rest = others > 0 ? `${plural(others, 'other')} can be chosen` : 'no other can be chosen';
	const seen = [`${policy}`, score === undefined ? '' : `score ${Number(score.toPrecision(3))}, lower is better`, `effective weight ${weight(force)}`, `${count(flight)} in flight`].filter(Boolean).join(', ');
	return may ? `It can be chosen${reason ? `, but is ${reason}` : ''} (${seen}); ${rest}.` : `It is not chosen: ${reason || 'the server gives no reason'} (${seen}); ${rest}.`;
}

// configLines returns the Caddyfile lines of one backend, with the comments above them, from those of its pool.
export function configLines(caddyfile, address) {
	const found = [];
	let part = [];
	for (const line of caddyfile.split('\n').filter(l => l !== '')) {
		part.push(line);
		if (line === '}' || line.endsWith('leave it out')) {
			if (part.some(l => l === `backend ${address} {` || l === `# ${address} was removed: leave it out`)) {
				found.push(...part);
			}
			part = [];
		}
	}
	return found.join('\n');
}

const MOST_ROUTES = 20;

// routeLines lists the routes that lead to a pool. If a server's express lane knows a route, its line says whether the lane serves it.
export function routeLines(model, pool) {
	const from = (listen, server) => `${listen?.join(' ') || server}:`;
	const told = new Set();
	const lines = (model.snapshot.express ?? []).flatMap(lane => (lane.routes ?? []).filter(route => route.pool === pool).map(({ hosts, paths, served, reason }) => {
		told.add(lane.server);
		const where = [from(lane.listen, lane.server), hosts?.join(', ') || 'all hosts', paths?.join(', ')].filter(Boolean).join(' ');
		return `${where} ${served ? 'on the express lane' : `is left to Caddy: ${reason}`}`;
	}));
	const { routes = [], more = 0 } = model.snapshot.routes?.[pool] ?? {};
	const plain = routes.filter(({ server }) => !told.has(server)).map(({ listen, server, way }) => `${from(listen, server)} ${way.join(' › ') || 'all requests'}`);
	const all = [...lines, ...plain];
	const rest = Math.max(all.length - MOST_ROUTES, 0) + (plain.length > 0 ? more : 0);
	return rest > 0 ? [...all.slice(0, MOST_ROUTES), `and ${rest} more`] : all;
}
