// The upper part of the page: the problems and the totals.

import { $, Keyed, attr, el, figure, hide, text } from './dom.js';
import { count, millis, percent, plural, rate } from './format.js';
import { problems } from './problems.js';
import { Spark } from './spark.js';
import { STATUSES } from './status.js';

const MOST = 6; // problems shown at first

export class Summary {
	constructor(view) {
		this.view = view;
		this.list = new Keyed($('problems'), problem => this.makeProblem(problem));
		this.tiles = TILES.map(tile => makeTile(tile));
		$('tiles').append(...this.tiles.map(tile => tile.node));
		this.said = '';
	}

	makeProblem() {
		const title = el('button', { type: 'button', class: 'link' });
		const why = el('span', { class: 'why' });
		const since = el('span', { class: 'since' });
		const node = el('li', null, el('span', { class: 'dot', 'aria-hidden': 'true' }), title, since, why);
		const child = { node, update: problem => {
			child.problem = problem;
			attr(node, 'data-tone', problem.tone);
			text(title, problem.title);
			text(why, problem.why);
			text(since, problem.since ? `for ${problem.since}` : '');
		} };
		title.addEventListener('click', () => {
			const { pool, backend, group, more } = child.problem;
			if (more) {
				this.all = !this.all;
				this.show(this.model);
			} else if (backend) {
				this.view.set({ pool, backend });
			} else {
				this.view.set({ q: pool ?? '', show: group ?? 'all' });
			}
		});
		return child;
	}

	show(model) {
		this.model = model;
		const found = problems(model);
		const tone = found.some(p => p.tone === 'bad') ? 'bad' : found.length > 0 ? 'warn' : model.pools.size > 0 ? 'ok' : 'idle';
		attr($('verdict'), 'data-tone', tone);
		text($('verdict-title'), verdict(model, found));
		const shown = this.all ? [...found] : found.slice(0, MOST);
		if (found.length > MOST) {
			shown.push({ key: 'more', tone: 'idle', title: this.all ? 'show fewer' : `and ${count(found.length - MOST)} more`, why: '', more: true });
		}
		hide($('problems'), shown.length === 0);
		this.list.show(shown, p => p.key);
		this.tiles.forEach(tile => tile.show(model));
		this.tone = tone;
		this.bad = found.filter(p => p.tone === 'bad').length;
		this.mark();
		this.say(found);
	}

	// mark shows the worst tone in the page's title and icon. Without a connection they are idle, because old data must not look fine.
	mark() {
		const tone = this.lost ? 'idle' : this.tone ?? 'idle';
		attr($('icon'), 'href', `icon-${tone}.svg`);
		attr($('mark'), 'src', `icon-${tone}.svg`);
		const prefix = this.lost ? '(not connected) ' : this.bad > 0 ? `(${this.bad}) ` : '';
		const node = this.model?.snapshot.node;
		const title = `${prefix}${node ? `${node} – ` : ''}Ballast`;
		if (document.title !== title) {
			document.title = title;
		}
	}

	// setLost says whether the data is old or the page is paused.
	setLost(lost) {
		if (this.lost !== lost) {
			this.lost = lost;
			this.mark();
		}
	}

	// say makes screen readers announce changes of the severe problems.
	say(found) {
		const bad = found.filter(p => p.tone === 'bad').map(p => p.title).join('. ');
		if (this.said !== bad) {
			text($('announce'), bad || 'No severe problems any more.');
			this.said = bad;
		}
	}
}

function verdict(model, found) {
	if (model.pools.size === 0) {
		return 'No pools';
	}
	const backends = model.backends();
	const byHand = backends.filter(b => STATUSES[b.status].group === 'out').length;
	const unfit = backends.filter(b => !b.data.usable).length - byHand;
	const parts = [];
	const failing = [...new Set(found.filter(p => p.failing).map(p => p.pool))];
	if (failing.length > 0) {
		parts.push(`Clients of ${failing.length > 3 ? plural(failing.length, 'pool') : failing.join(', ')} get errors`);
	}
	if (unfit > 0) {
		parts.push(`${count(unfit)} of ${plural(backends.length, 'backend')} ${unfit === 1 ? 'is' : 'are'} out of use`);
	} else if (failing.length === 0) {
		parts.push(found.length > 0 ? `${plural(found.length, 'thing')} to look at` : `All is well in ${plural(model.pools.size, 'pool')}`);
	}
	if (byHand > 0) {
		parts.push(`${count(byHand)} taken out by hand`);
	}
	return parts.join(', ');
}

const TILES = [
	{ label: 'Requests/s', of: m => rate(m.total.rates.requests), ring: m => m.requests },
	{ label: 'Errors', title: 'share of the requests that were answered with 5xx, refused ones included', of: m => percent(m.total.errorShare), ring: m => m.errors, kind: 'errors',
		tone: m => (m.total.errorShare >= 0.05 ? 'bad' : m.total.errorShare >= 0.01 ? 'warn' : null) },
	{ label: 'Refused/s', title: 'requests that no backend answered', of: m => rate(m.total.rates.refused), tone: m => (m.total.rates.refused > 0 ? 'bad' : null),
		needs: m => m.total.rates.refused > 0 },
	{ label: 'p95', title: 'p95 of the slowest pool', of: m => millis(m.total.latency.p95), ring: m => m.slowest, needs: m => m.total.latency.p95 !== undefined },
	{ label: 'In flight', of: m => count(m.total.inFlight), ring: m => m.inFlight },
	{ label: 'Retries/s', of: m => rate(m.total.rates.retries), needs: m => m.backends().some(b => b.data.retries !== undefined) },
	{ label: 'Waiting', title: 'requests in queues', of: m => count(m.total.queue), tone: m => (m.total.queue > 0 ? 'warn' : null) },
	{ label: 'Usable', of: m => `${count(m.backends().filter(b => b.data.usable).length)} / ${count(m.backends().length)}`,
		tone: m => (m.backends().some(b => !b.data.usable) ? 'warn' : null) },
];

function makeTile({ label, title, of, ring, kind, tone, needs }) {
	const number = el('span', { class: 'big' });
	const spark = ring ? new Spark(120, 28, kind) : null;
	const node = el('div', { class: 'tile card', title }, el('span', { class: 'label' }, label), number, spark?.node);
	return { node, show(model) {
		hide(node, Boolean(needs) && !needs(model));
		figure(number, of(model));
		attr(number, 'data-tone', tone?.(model) ?? null);
		spark?.show(ring(model));
	} };
}
