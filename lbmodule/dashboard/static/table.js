// The table of pools and backends. A row is made when its backend is first shown. Later, only rows near the screen are updated.

import { COLUMNS, answers, compare, comparePools, pill, traffic } from './columns.js';
import { $, arrange, attr, el, figure, hide, text } from './dom.js';
import { count, millis, percent, plural, rate, volume } from './format.js';
import { opened, opener } from './opener.js';
import { Blocks } from './spark.js';
import { STATUSES, poolState } from './status.js';

const FOLD_FROM = 60; // total number of backends from which on pools that are OK are collapsed

const SORT_LABELS = { status: 'State', name: 'Name', '-rate': 'Requests', '-errors': 'Errors', '-p95': 'p95', '-load': 'In flight' };

// shadowNote compares the shadow policy of a pool with the policy in use: "X instead of Y" is X with the shadow policy and Y with the other.
function shadowNote({ shadow, backends }) {
	const { expected_ms: expected, took_ms: took } = shadow;
	const times = expected && took ? `, p50 ${millis(expected.p50)} instead of ${millis(took.p50)}, p99 ${millis(expected.p99)} instead of ${millis(took.p99)}` : '';
	const of = kind => (backends ?? []).reduce((sum, b) => sum + (b.shadow?.[kind] ?? 0), 0) || 1;
	const [requests, given] = [of('requests'), of('given')];
	const shares = (backends ?? []).filter(b => b.shadow).slice(0, 20).map(b => `${b.name}: ${percent(b.shadow.requests / requests)} instead of ${percent(b.shadow.given / given)}`);
	return { label: `shadow ${shadow.policy.replace(/^lb_/, '')}: agrees ${percent(shadow.agreement)}${times}`,
		title: ['shadow policy instead of policy in use', `fairness ${percent(shadow.fairness)}`, ...shares].join('\n') };
}

export class Table {
	constructor(view) {
		this.view = view;
		this.node = $('table');
		this.pools = new Map();
		this.held = false; // rows keep their places
		this.rows = new WeakMap(); // from nodes
		this.observer = new IntersectionObserver(entries => entries.forEach(({ target, isIntersecting }) => this.setSeen(target, isIntersecting)), { rootMargin: '300px' });
		// The browser skips rows far from the screen (content-visibility) and reports that, so only a few of a thousand are observed.
		this.node.addEventListener('contentvisibilityautostatechange', ({ target, skipped }) => this.setNear(target, !skipped));
		this.makeHead();
		// Rows do not move while the pointer is over the table.
		this.node.addEventListener('pointerenter', () => { this.held = true; });
		this.node.addEventListener('pointerleave', () => { this.held = false; });
		this.node.addEventListener('click', event => this.clicked(event));
		$('folding').addEventListener('click', () => view.foldAll([...this.pools.keys()], !this.allFolded()));
		$('flat').addEventListener('click', () => view.set({ list: view.list === 'flat' ? '' : 'flat' }));
		$('dense').addEventListener('click', () => view.set({ dense: view.dense ? '' : '1' }));
		$('sorting').append(...Object.entries(SORT_LABELS).map(([value, label]) => el('option', { value }, label)));
		$('sorting').addEventListener('change', event => view.set({ sort: event.target.value }));
	}

	makeHead() {
		this.heads = COLUMNS.map(column => {
			const button = el('button', { type: 'button' }, column.label);
			button.addEventListener('click', () => this.view.set({ sort: this.next(column) }));
			const head = el('th', { scope: 'col', role: 'columnheader', class: `${column.key}${column.numeric ? ' numeric' : ''}` }, button);
			$('heads').append(head);
			return { column, head };
		});
	}

	// next returns the sorting after a click on a column. Numbers begin with the largest; the third click restores the default.
	next({ key, numeric }) {
		const [first, second] = numeric ? [`-${key}`, key] : [key, `-${key}`];
		return this.view.sort === first ? second : this.view.sort === second ? 'status' : first;
	}

	clicked(event) {
		const fold = event.target.closest('[data-fold]');
		if (fold) {
			this.view.setFolded(fold.dataset.fold, fold.getAttribute('aria-expanded') === 'true');
			return;
		}
		const pool = opened(event.target);
		if (pool) {
			this.view.set({ pool, backend: '' });
			return;
		}
		const row = event.target.closest('tr.backend');
		if (row && getSelection().isCollapsed) {
			this.view.set({ pool: row.dataset.pool, backend: row.dataset.backend });
		}
	}

	setNear(node, near) {
		if (near && node.isConnected) {
			this.observer.observe(node);
		} else {
			this.observer.unobserve(node);
			this.setSeen(node, false);
		}
	}

	setSeen(node, seen) {
		const row = this.rows.get(node);
		if (row) {
			row.seen = seen;
			if (seen && this.model) {
				row.update(this.model);
			}
		}
	}

	show(model) {
		this.model = model;
		const { order } = this.view;
		const backends = model.backends();
		for (const { column, head } of this.heads) {
			attr(head, 'aria-sort', column.key === order.by ? (order.descending ? 'descending' : 'ascending') : null);
			this.node.classList.toggle(`no-${column.key}`, Boolean(column.needs) && !backends.some(column.needs));
		}
		if ($('sorting').value !== this.view.sort) {
			$('sorting').value = this.view.sort;
		}
		const flat = this.view.list === 'flat';
		const shown = flat ? this.showFlat(model, backends) : this.showPools(model, backends);
		this.node.classList.toggle('flat', flat);
		this.node.classList.toggle('dense', this.view.dense !== '');
		attr($('flat'), 'aria-pressed', String(flat));
		attr($('dense'), 'aria-pressed', String(this.view.dense !== ''));
		hide($('folding'), flat || this.pools.size < 2);
		text($('folding'), this.allFolded() ? 'Expand all' : 'Collapse all');
		hide($('nothing'), shown > 0);
		text($('nothing'), shown > 0 ? '' : backends.length > 0 ? 'No backend matches.' : 'No pools: the running config has no load_balancer.');
	}

	// showPools shows the backends by pool. It returns 0 if nothing matches the search.
	showPools(model, backends) {
		this.all?.end();
		this.all = undefined;
		const next = new Map();
		let shown = 0;
		for (const pool of model.pools.values()) {
			const section = this.pools.get(pool.name) ?? new Section(this, pool.name);
			shown += section.show(pool, model, backends.length >= FOLD_FROM);
			next.set(pool.name, section);
		}
		this.endSections(next);
		if (!this.held) {
			arrange(this.node, [...model.pools.values()].sort(comparePools(this.view.order, p => next.get(p.name).rank)).map(p => next.get(p.name).body), 1);
		}
		return shown;
	}

	// showFlat shows the backends of all pools in one list.
	showFlat(model, backends) {
		this.endSections(new Map());
		if (!this.all) {
			const body = el('tbody', { role: 'rowgroup' });
			this.node.append(body);
			this.all = new Rows(this, body, 0);
		}
		const all = this.all.sorted(backends, compare(this.view.order));
		const matching = all.filter(b => this.matches(b));
		this.all.show(matching, all, model);
		return matching.length;
	}

	// endSections removes the sections that are not in next.
	endSections(next) {
		for (const [name, section] of this.pools) {
			if (next.get(name) !== section) {
				section.end();
			}
		}
		this.pools = next;
	}

	allFolded() {
		return this.pools.size > 0 && [...this.pools.values()].every(section => section.folded);
	}

	// matches reports whether a backend matches the search and the chosen states.
	matches(b) {
		const { q, show } = this.view;
		if (show !== 'all' && STATUSES[b.status].group !== show) {
			return false;
		}
		if (q === '') {
			return true;
		}
		const { name, address, zone, reason, avoided } = b.data;
		return q.toLowerCase().split(/\s+/).every(word => [b.pool.name, name, address, zone, reason, avoided, STATUSES[b.status].label].some(s => s?.toLowerCase().includes(word)));
	}

	// step moves the focus by a number of backends.
	step(by) {
		const names = [...this.node.querySelectorAll('tr.backend:not([hidden]) button.name')];
		const at = names.indexOf(document.activeElement);
		names.at(at < 0 ? 0 : Math.min(Math.max(at + by, 0), names.length - 1))?.focus();
	}
}

// Section is a pool: a row for the pool, and one for each backend.
class Section {
	constructor(table, name) {
		this.table = table;
		this.name = name;
		this.mark = pill();
		this.arrow = el('button', { type: 'button', class: 'fold', 'data-fold': name, 'aria-expanded': 'true' }, name);
		this.blocks = new Blocks();
		this.traffic = traffic();
		this.answers = answers();
		this.usable = el('span', { class: 'second' });
		this.cells = Object.fromEntries(['p50', 'p95', 'p99', 'load', 'retries', 'bytes_in', 'bytes_out'].map(key => [key, el('span', { class: 'number' })]));
		this.notes = el('span', { class: 'second notes' });
		const cell = (key, ...content) => el('td', { class: key, role: 'cell' }, ...content);
		this.head = el('tr', { class: 'pool', role: 'row' },
			cell('status', el('div', { class: 'two' }, el('span', { class: 'first' }, this.mark.node), this.usable)),
			el('th', { class: 'name', scope: 'rowgroup', role: 'rowheader' }, el('div', { class: 'two' }, el('span', { class: 'first' }, this.arrow, this.blocks.node, opener(name)), this.notes)),
			cell('rate', this.traffic.node), cell('errors', this.answers.node),
			cell('p50', this.cells.p50), cell('p95', this.cells.p95), cell('p99', this.cells.p99), cell('load', this.cells.load),
			cell('weight'), cell('retries', this.cells.retries), cell('bytes_in', this.cells.bytes_in), cell('bytes_out', this.cells.bytes_out), cell('check'));
		this.body = el('tbody', { role: 'rowgroup' }, this.head);
		this.rows = new Rows(table, this.body, 1);
		for (const percentile of ['p50', 'p95', 'p99']) {
			attr(this.cells[percentile], 'title', 'of all its backends');
		}
	}

	// show shows the pool. It returns how many backends match the search, 1 without a search.
	show(pool, model, large) {
		const { view } = this.table;
		const { label, tone, rank } = poolState(pool.data);
		this.rank = rank;
		const all = this.rows.sorted([...pool.backends.values()], compare(view.order));
		const matching = all.filter(b => this.table.matches(b));
		const looking = view.q !== '' || view.show !== 'all';
		const folded = !looking && view.folded(pool.name, large && tone === 'ok');
		this.folded = folded;
		hide(this.body, looking && matching.length === 0);
		attr(this.arrow, 'aria-expanded', String(!folded));
		this.mark.show(label, tone);
		text(this.usable, `${pool.data.usable} of ${pool.backends.size} usable`);
		this.blocks.show(all.map(b => STATUSES[b.status].tone));
		const { total } = pool;
		this.traffic.show(total.rates, pool.requests, pool.errors);
		this.answers.show(total.rates, total.errorShare);
		for (const percentile of ['p50', 'p95', 'p99']) {
			text(this.cells[percentile], total.latency[percentile] === undefined ? '' : millis(total.latency[percentile]));
		}
		figure(this.cells.load, count(total.inFlight));
		figure(this.cells.retries, rate(total.rates.retries));
		for (const name of ['bytes_in', 'bytes_out']) {
			figure(this.cells[name], volume(total.rates[name]));
		}
		this.showNotes(pool);
		this.rows.show(folded ? [] : matching, all, model);
		return looking ? matching.length : 1;
	}

	showNotes({ data, suffix }) {
		const notes = [{ label: (data.policy ?? '').replace(/^lb_/, ''), title: 'the selection policy' }];
		if (data.queue !== undefined) {
			notes.push({ label: `queue ${count(data.queue)}`, tone: data.queue > 0 ? 'warn' : null, title: 'requests waiting for a free slot' });
		}
		if (data.retry_budget !== undefined) {
			notes.push({ label: `budget ${count(Math.floor(data.retry_budget))}`, tone: data.retry_budget < 1 ? 'warn' : null, title: 'retries that the pool may make now' });
		}
		if (suffix) {
			notes.push({ label: `names end in ${suffix}`, title: 'the suffix that all names of backends share' });
		}
		if (data.warnings?.length > 0) {
			notes.push({ label: plural(data.warnings.length, 'warning'), tone: 'warn', title: data.warnings.join('\n') });
		}
		if (data.canary) {
			notes.push(canaryNote(data.canary));
		}
		if (data.utilization > 0) {
			notes.push({ label: `slots ${percent(data.utilization)}`, title: 'share of the slots of max_requests in use' });
		}
		if (data.fairness !== undefined) {
			notes.push({ label: `fairness ${percent(data.fairness)}`, title: "how evenly requests are spread (Jain's index)" });
		}
		if (data.shadow) {
			notes.push(shadowNote(data));
		}
		const key = JSON.stringify(notes);
		if (this.notes.dataset.key !== key) {
			this.notes.dataset.key = key;
			this.notes.replaceChildren(...notes.map(n => el('span', { class: 'note', 'data-tone': n.tone, title: n.title }, n.label)));
		}
	}

	end() {
		this.rows.end();
		this.body.remove();
	}
}

const same = (a, b) => a.length === b?.length && a.every((item, i) => item === b[i]);

// Rows manages the rows of backends in a table body, after its first `from` rows.
class Rows {
	constructor(table, body, from) {
		this.table = table;
		this.body = body;
		this.from = from;
		this.rows = new Map();
		this.order = [];
		this.shown = [];
	}

	// sorted returns the backends in order. It sorts from the last order, which rarely needs many changes.
	sorted(backends, by) {
		const there = new Set(backends);
		const before = this.order.filter(b => there.delete(b));
		this.order = [...before, ...there].sort(by);
		return this.order;
	}

	// show shows the wanted ones of all backends.
	show(wanted, all, model) {
		if (!same(wanted, this.shown) || !same(all, this.arranged)) {
			this.arrange(wanted, all);
		}
		for (const b of wanted) {
			const row = this.rows.get(b);
			if (row.seen) {
				row.update(model);
			}
		}
	}

	// arrange makes rows for the wanted backends, hides those of the others, and puts all in order.
	arrange(wanted, all) {
		const there = new Set(all);
		for (const [b, row] of this.rows) {
			if (!there.has(b)) {
				row.end();
				this.rows.delete(b);
			}
		}
		const shown = new Set(wanted);
		for (const b of all) {
			const row = this.rows.get(b);
			if (row) {
				hide(row.node, !shown.has(b));
			} else if (shown.has(b)) {
				this.rows.set(b, new Row(this.table, b));
			}
		}
		const rows = all.map(b => this.rows.get(b)).filter(Boolean);
		this.shown = wanted;
		this.arranged = undefined;
		if (!this.table.held || rows.some(row => !row.node.isConnected)) {
			arrange(this.body, rows.map(row => row.node), this.from);
			this.arranged = all;
		}
	}

	end() {
		this.rows.forEach(row => row.end());
		if (this.from === 0) {
			this.body.remove();
		}
	}
}

const CANARY_TONES = { rolled_back: 'bad', paused: 'warn' };

// canaryNote shows the canary's share of the clients, and compares it with the other backends.
function canaryNote({ state, share, canary, others, next_share: next, next_in: left }) {
	const side = ({ requests, error_rate: errors, p50_ms: p50, p95_ms: p95 }) =>
		`${plural(requests, 'request')}, ${percent(errors)} errors, p50 ${millis(p50)}, p95 ${millis(p95)}`;
	return {
		label: `canary ${state === 'running' ? '' : `${state.replace('_', ' ')} `}${percent(share)}, errors ${percent(canary.error_rate)} : ${percent(others.error_rate)}, p95 ${millis(canary.p95_ms)} : ${millis(others.p95_ms)}`,
		tone: CANARY_TONES[state] ?? null,
		title: `canary: ${side(canary)}\nothers: ${side(others)}${left ? `\n${percent(next)} in ${left}` : ''}`,
	};
}

// Row is a backend.
class Row {
	constructor(table, backend) {
		this.table = table;
		this.backend = backend;
		this.seen = true; // until the observer reports otherwise
		this.parts = COLUMNS.map(column => column.make());
		this.node = el('tr', { class: 'backend', role: 'row', 'data-pool': backend.pool.name, 'data-backend': backend.name },
			...COLUMNS.map((column, i) => el(column.key === 'name' ? 'th' : 'td', {
				class: `${column.key}${column.numeric ? ' numeric' : ''}`, 'data-label': column.label,
				role: column.key === 'name' ? 'rowheader' : 'cell', scope: column.key === 'name' ? 'row' : null,
			}, this.parts[i].node)));
		table.rows.set(this.node, this);
		table.observer.observe(this.node);
	}

	update(model) {
		attr(this.node, 'data-tone', STATUSES[this.backend.status].tone);
		this.parts.forEach(part => part.update(this.backend, model));
	}

	end() {
		this.table.observer.unobserve(this.node);
		this.node.remove();
	}
}
