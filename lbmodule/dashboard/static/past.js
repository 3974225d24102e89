// The history of a pool or a backend: graphs, the numbers of one point, a table, and files to save.

import { attr, el, hide, own, text } from './dom.js';
import { duration, few, millis, rate, volume } from './format.js';
import { Graph, Heat } from './graph.js';
import { seconds } from './model.js';
import { Peaks } from './peaks.js';
import { eventWords } from './rail.js';

const RANGES = {
	'5m': { label: '5 min', words: 'last 5 minutes', every: 2000 },
	'1h': { label: '1 h', words: 'last hour', every: 10_000 },
	'24h': { label: '24 h', words: 'last 24 hours', every: 60_000 },
};
const POINTS = 150;

const GRAPHS = [
	{ title: 'Requests', unit: 'per second, by code', stacked: true, write: rate, lines: [
		{ key: '2xx', label: '2xx', tone: '--ok-fill' }, { key: '3xx', label: '3xx', tone: '--info-fill' }, { key: '4xx', label: '4xx', tone: '--warn-fill' },
		{ key: '5xx', label: '5xx', tone: '--bad-fill' }, { key: '1xx', label: '1xx', tone: '--out-fill' }] },
	{ title: 'Errors', unit: 'per second', write: rate, lines: [
		{ key: '5xx', label: '5xx', tone: '--bad' }, { key: 'failures', label: 'failed', tone: '--warn', dash: [5, 3] },
		{ key: 'refused', label: 'refused', tone: '--out' }, { key: 'canceled', label: 'canceled', tone: '--idle' }] },
	{ title: 'Latency', unit: 'until the header', write: millis, lines: [
		{ key: 'p50_ms', label: 'p50', tone: '--ok' }, { key: 'p95_ms', label: 'p95', tone: '--info' }, { key: 'p99_ms', label: 'p99', tone: '--out' }] },
	{ title: 'Latency heat', unit: 'the darker, the more answers', write: millis, heat: true },
	{ title: 'In flight', unit: 'requests', write: few, lines: [
		{ key: 'in_flight', label: 'in flight', tone: '--info' }, { key: 'queue', label: 'waiting', tone: '--warn', dash: [5, 3] }] },
	{ title: 'Bytes', unit: 'of bodies per second', write: volume, lines: [
		{ key: 'bytes_out', label: 'out', tone: '--info' }, { key: 'bytes_in', label: 'in', tone: '--out', dash: [5, 3] }] },
	{ title: 'Retries', unit: 'per second', write: rate, lines: [{ key: 'retries', label: 'retries', tone: '--warn' }] },
];

export class Past {
	constructor(view) {
		this.view = view;
		this.marks = [];
		this.graphs = [];
		this.rate = rate;
		this.make();
		new MutationObserver(() => this.graphs.forEach(({ graph }) => graph.redraw())).observe(document.documentElement, { attributeFilter: ['data-theme'] });
	}

	make() {
		this.ranges = Object.entries(RANGES).map(([key, { label, words }]) => {
			const node = el('button', { type: 'button', 'data-range': key, 'aria-pressed': 'false', 'aria-label': words }, label);
			node.addEventListener('click', () => this.view.set({ range: key }));
			return { key, node };
		});
		this.when = el('span', { class: 'when number' });
		this.moment = el('input', { type: 'range', min: 0, max: POINTS - 1, step: 1, value: POINTS - 1, 'aria-label': 'Time of the numbers' });
		this.moment.addEventListener('input', () => this.point(Number(this.moment.value)));
		this.said = el('ul', { class: 'said', 'aria-label': 'Events at that time' });
		this.trouble = el('p', { class: 'second missing', role: 'status' });
		this.plots = el('div', { class: 'plots' });
		this.peaks = new Peaks(this);
		this.table = el('table', { class: 'past' });
		this.tablePart = el('details', { class: 'aside' }, el('summary', null, 'The same as a table'), el('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': 'Numbers of all points' }, this.table));
		this.tablePart.addEventListener('toggle', () => this.showTable());
		this.files = ['json', 'csv'].map(format => ({ format, node: el('a', { class: 'button', 'data-format': format }, format.toUpperCase()) }));
		this.link = el('a', { class: 'button', 'data-link': true }, 'Link');
		this.link.addEventListener('click', event => this.share(event));
		this.copied = el('span', { class: 'second', role: 'status' });
		this.node = el('section', { class: 'history' },
			el('div', { class: 'head' }, el('h3', null, 'History'), el('div', { class: 'segments', role: 'group', 'aria-label': 'How far back' }, ...this.ranges.map(r => r.node)),
				el('span', { class: 'grow' }), this.copied, this.link, ...this.files.map(f => f.node)),
			this.trouble, el('div', { class: 'at' }, this.moment, this.when), this.said, this.plots, this.peaks.node, this.tablePart);
	}

	// share copies the URL of the view, if the browser allows it.
	async share(event) {
		event.preventDefault();
		try {
			await navigator.clipboard.writeText(this.link.href);
			text(this.copied, 'copied');
		} catch {
			text(this.copied, 'not copied: the browser does not allow it');
		}
	}

	// show shows the history of the view's pool or backend, and requests it again when the range's interval has passed.
	show(model) {
		const { pool, backend } = this.view;
		const range = RANGES[this.view.range] ? this.view.range : '5m';
		const key = JSON.stringify([pool, backend, range]);
		this.range = range;
		if (this.key !== key) {
			this.stop();
			this.key = key;
			text(this.copied, '');
			for (const { key: of, node } of this.ranges) {
				attr(node, 'aria-pressed', String(of === range));
			}
			for (const { format, node } of this.files) {
				attr(node, 'href', this.address(format));
				attr(node, 'download', `ballast-${[pool, backend, range].filter(Boolean).join('-').replaceAll(/[^\w.-]+/g, '_')}.${format}`);
				attr(node, 'aria-label', `Save as ${format.toUpperCase()}`);
			}
			attr(this.link, 'href', `#${new URLSearchParams({ pool, ...(backend === '' ? {} : { backend }), range })}`);
			attr(this.link, 'aria-label', 'Copy a link to this view');
		}
		this.mark(model);
		if (!this.asking && (this.asked === undefined || performance.now() - this.asked >= RANGES[range].every)) {
			this.ask(key);
		}
	}

	address(format) {
		const question = new URLSearchParams({ pool: this.view.pool, range: this.range, format });
		if (this.view.backend !== '') {
			question.set('backend', this.view.backend);
		}
		return own(`history?${question}`);
	}

	async ask(key) {
		const asking = this.asking = new AbortController();
		this.asked = performance.now();
		try {
			const answer = await fetch(this.address('json'), { signal: asking.signal });
			const data = await answer.json();
			if (this.asking !== asking || this.key !== key) {
				return;
			}
			text(this.trouble, answer.ok ? data.missing ? `No history: ${data.missing}.` : '' : data.error ?? `the server answered with status ${answer.status}`);
			this.take(answer.ok && !data.missing ? data : null);
		} catch (error) {
			if (error.name !== 'AbortError' && this.asking === asking) {
				text(this.trouble, 'The history cannot be loaded at the moment.');
			}
		} finally {
			if (this.asking === asking) {
				this.asking = undefined;
			}
		}
	}

	// take shows the data of an answer; null hides the graphs.
	take(data) {
		this.data = data;
		for (const part of [this.plots, this.peaks.node, this.tablePart, this.moment.parentElement, this.said]) {
			hide(part, !data);
		}
		if (!data) {
			return;
		}
		if (this.graphs.length === 0) {
			this.graphs = GRAPHS.filter(g => (g.heat ? data.heat : true)).map(g => {
				const lines = g.lines?.filter(line => data.series[line.key]);
				const graph = g.heat ? new Heat(g, this) : new Graph({ ...g, lines }, this);
				this.plots.append(graph.node);
				return { graph, lines };
			});
		}
		for (const { graph, lines } of this.graphs) {
			if (lines) {
				graph.show(data.time, lines.map(line => data.series[line.key]));
			} else {
				graph.showHeat(data.time, data.heat);
			}
		}
		this.peaks.show(data, `of the ${RANGES[this.range].words}; a point is ${duration(data.step)} long`);
		this.showPoint();
		this.showTable();
	}

	// point shows the numbers of one point, the latest one if there is no index. It ignores a graph whose cursor this page has set.
	point(at, by) {
		if (by?.quiet || !this.data) {
			return;
		}
		this.at = at ?? undefined;
		this.showPoint();
	}

	showPoint() {
		if (!this.data) {
			return;
		}
		const at = Math.min(this.at ?? Infinity, this.data.time.length - 1);
		this.graphs.forEach(({ graph }) => graph.point(at, this.at !== undefined));
		if (this.moment.value !== String(at)) {
			this.moment.value = at;
		}
		const words = this.clock(this.data.time[at]);
		text(this.when, this.at === undefined ? `now, ${words}` : words);
		const said = this.marks.filter(mark => this.at !== undefined && Math.abs(mark.time - this.data.time[at]) <= 1.5 * this.data.step);
		const key = said.map(mark => mark.words).join('\n');
		if (this.said.dataset.key !== key) {
			this.said.dataset.key = key;
			this.said.replaceChildren(...said.slice(0, 5).map(mark => el('li', { 'data-tone': mark.tone }, el('span', { class: 'dot', 'aria-hidden': 'true' }), `${this.clock(mark.time)} ${mark.words}`)));
		}
		const numbers = this.graphs.flatMap(({ graph }) => graph.values.map(({ node }) => node.textContent));
		attr(this.moment, 'aria-valuetext', `${words}: ${numbers.join(', ')}`);
	}

	clock(time) {
		const date = new Date(1000 * time);
		return this.range === '24h' ? date.toLocaleString(undefined, { weekday: 'short', hour: '2-digit', minute: '2-digit' }) : date.toLocaleTimeString();
	}

	// mark collects the events of the view's pool or backend for the graphs.
	mark(model) {
		const { pool, backend } = this.view;
		const events = model.events.filter(e => e.data.pool === pool && (backend === '' || e.data.backend === backend));
		const key = events.map(e => `${e.boot}-${e.id}`).join();
		if (this.marked !== key) {
			this.marked = key;
			this.marks = events.map(e => ({ time: seconds(e.data.time), ...eventWords(e) }));
			this.graphs.forEach(({ graph }) => graph.redraw());
		}
	}

	showTable() {
		if (!this.tablePart.open || !this.data) {
			return;
		}
		const { time, series } = this.data;
		const names = GRAPHS.flatMap(g => (g.lines ?? []).filter(l => series[l.key]).map(l => ({ ...l, write: g.write }))).filter((l, i, all) => all.findIndex(o => o.key === l.key) === i);
		const rows = time.map((t, i) => ({ t, i })).filter(({ i }) => names.some(({ key }) => series[key][i] !== null)).reverse();
		this.table.replaceChildren(
			el('caption', { class: 'unseen' }, `${RANGES[this.range].words}, latest first`),
			el('thead', null, el('tr', null, el('th', { scope: 'col' }, 'Time'), ...names.map(({ label }) => el('th', { scope: 'col' }, label)))),
			el('tbody', null, ...rows.map(({ t, i }) => el('tr', null, el('th', { scope: 'row' }, this.clock(t)), ...names.map(({ key, write }) => el('td', null, write(series[key][i] ?? undefined)))))));
	}

	// stop drops the data and the graphs.
	stop() {
		this.asking?.abort();
		this.asking = this.asked = this.data = this.at = this.marked = this.key = undefined;
		this.graphs.forEach(({ graph }) => graph.end());
		this.graphs = [];
		this.plots.replaceChildren();
		this.said.replaceChildren();
		text(this.trouble, '');
	}
}
