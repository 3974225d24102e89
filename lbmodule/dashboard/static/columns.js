// The columns of the table: their labels, what they sort by, and how their cells are made and updated.

import { attr, el, figure, hide, text, width } from './dom.js';
import { byName, count, duration, millis, percent, rate, volume, weight } from './format.js';
import { checkError } from './problems.js';
import { Spark } from './spark.js';
import { STATUSES, begun, cap, warmth } from './status.js';

const CLASSES = ['2xx', '3xx', '4xx', '5xx'];

// pill shows a state as a coloured mark with a word, so that it does not depend on the colour.
export function pill() {
	const label = el('span');
	const node = el('span', { class: 'pill' }, el('span', { class: 'dot', 'aria-hidden': 'true' }), label);
	return { node, show(what, toneName) {
		text(label, what);
		attr(node, 'data-tone', toneName);
	} };
}

// twoLines is a cell of two lines.
function twoLines() {
	const first = el('span', { class: 'first' });
	const second = el('span', { class: 'second' });
	return { first, second, node: el('div', { class: 'two' }, first, second) };
}

// traffic shows a rate with its curve.
export function traffic() {
	const number = el('span', { class: 'number' });
	const spark = new Spark();
	return { node: el('div', { class: 'traffic' }, spark.node, number), show(rates, requests, errors) {
		figure(number, rate(rates.requests));
		spark.show(requests, errors);
	} };
}

// answers shows the share of each class of answers as a bar, and the share of errors as a number.
export function answers() {
	const bars = CLASSES.map(name => el('span', { class: `c${name[0]}` }));
	const bar = el('span', { class: 'bar', 'aria-hidden': 'true' }, ...bars);
	const number = el('span', { class: 'number' });
	return { node: el('div', { class: 'answers' }, bar, number), show(rates, share) {
		const all = CLASSES.reduce((sum, name) => sum + (rates[name] ?? 0), 0);
		hide(bar, all === 0);
		CLASSES.forEach((name, i) => width(bars[i], all > 0 ? (rates[name] ?? 0) / all : 0));
		figure(number, percent(share));
		attr(number, 'data-tone', share >= 0.05 ? 'bad' : share >= 0.01 ? 'warn' : null);
		attr(number, 'title', CLASSES.filter(name => rates[name] !== undefined).map(name => `${name}: ${rate(rates[name])}/s`).join('\n') || null);
	} };
}

function number() {
	return { node: el('span', { class: 'number' }), show(value) { figure(this.node, value); } };
}

// share shows a number with a bar below it.
function share() {
	const label = el('span', { class: 'number' });
	const filled = el('span');
	const bar = el('span', { class: 'bar thin', 'aria-hidden': 'true' }, filled);
	return { node: el('div', { class: 'share' }, label, bar), show(words, part, toneName) {
		figure(label, words);
		hide(bar, part === undefined);
		width(filled, part ?? 0);
		attr(filled, 'data-tone', toneName ?? null);
	} };
}

function state() {
	const mark = pill();
	const lines = twoLines();
	lines.first.append(mark.node);
	return { node: lines.node, update(b, model) {
		const { label, tone: toneName } = STATUSES[b.status];
		mark.show(b.status === 'ramping' ? `Ramping ${percent(warmth(b.data))}` : label, toneName);
		const since = model.since(begun(b));
		const left = model.until(b.data.until);
		const past = since === undefined ? '' : `for ${duration(since)}`;
		if (left === undefined) {
			text(lines.second, past);
		} else {
			text(lines.second, b.status === 'open' ? `tried in ${duration(left)}` : `${duration(left)} left`);
		}
		attr(lines.second, 'title', past);
	} };
}

// differs reports whether an edit differs from the config. A backend that was drained and made ready again does not differ.
const differs = edit => edit.value !== edit.config && !(edit.field === 'state' && edit.value === 'ready');

function name() {
	const open = el('button', { type: 'button', class: 'name', 'data-open': '' });
	const tags = el('span', { class: 'tags' });
	const second = el('span', { class: 'second' });
	const of = el('span', { class: 'second of' });
	const node = el('div', { class: 'two' }, el('span', { class: 'first' }, open, of, tags), second);
	return { node, update(b) {
		const { data } = b;
		const { suffix } = b.pool;
		text(open, suffix ? data.name.slice(0, -suffix.length) : data.name);
		attr(open, 'title', suffix ? data.name : null);
		text(of, `in ${b.pool.name}`);
		const marks = [data.backup ? 'backup' : '', data.zone ?? '', data.source && data.source !== 'config' ? data.source : '', data.edits?.some(differs) ? 'edited' : ''].filter(Boolean);
		if (tags.dataset.marks !== marks.join()) {
			tags.dataset.marks = marks.join();
			tags.replaceChildren(...marks.map(mark => el('span', { class: 'tag' }, mark)));
		}
		const { line, tone: toneName } = secondLine(b);
		text(second, line);
		attr(second, 'data-tone', toneName);
		hide(second, line === '');
	} };
}

// secondLine is the reason of a backend's state, or its address if there is none to give.
function secondLine(b) {
	const { data } = b;
	const reason = why(b);
	return reason ? { line: reason, tone: STATUSES[b.status].tone } : { line: data.address === data.name ? '' : data.address, tone: null };
}

// why is the reason why a backend gets no requests, or less than its share; '' if it gets its share.
export function why(b) {
	const { data } = b;
	if (b.status === 'avoided') {
		return data.avoided;
	}
	if (data.usable || !data.reason) {
		return '';
	}
	const edit = data.edits?.find(e => e.field === 'state' && data.state !== 'ready');
	if (edit?.reason || edit?.owner) {
		return [edit.reason, edit.owner ? `by ${edit.owner}` : ''].filter(Boolean).join(', ');
	}
	const check = data.last_check;
	const detail = b.status === 'down' && check && !check.ok ? `: ${checkError(check)}` : '';
	return data.reason.replaceAll('_', '-') + detail;
}

function check() {
	const lines = twoLines();
	return { node: lines.node, update(b, model) {
		const c = b.data.last_check;
		hide(lines.node, !c);
		if (c) {
			text(lines.first, c.ok ? [c.code || 'ok', millis(c.ms)].join(' · ') : c.code ? `${c.code} · failed` : 'failed');
			attr(lines.first, 'data-tone', c.ok ? null : 'bad');
			const age = model.since(c.time);
			text(lines.second, age === undefined ? '' : age < 1 ? 'now' : `${duration(age)} ago`);
		}
	} };
}

// wrap turns one of the parts above into a cell: fill shows the values of a backend in it.
const wrap = (make, fill) => () => {
	const part = make();
	return { node: part.node, update: b => fill(part, b) };
};

const latency = percentile => wrap(number, (part, b) => part.show(millis(b.data.latency_ms?.[percentile])));

const bytes = (name, label) => ({ key: name, label, numeric: true, of: b => b.rates[name], pool: p => p.total.rates[name], make: wrap(number, (part, b) => part.show(volume(b.rates[name]))),
	needs: b => b.data[name] !== undefined });

const load = b => (cap(b) > 0 ? `${count(b.in_flight)} / ${count(cap(b))}` : count(b.in_flight));

// COLUMNS: `of` is the value that backends are sorted by, `pool` the one for pools; `needs` reports whether a backend has a value.
export const COLUMNS = [
	{ key: 'status', label: 'State', of: b => STATUSES[b.status].rank, make: state },
	{ key: 'name', label: 'Backend', make: name },
	{ key: 'rate', label: 'Requests/s', numeric: true, of: b => b.rates.requests, pool: p => p.total.rates.requests, make: wrap(traffic, (part, b) => part.show(b.rates, b.requests, b.errors)) },
	{ key: 'errors', label: 'Errors', numeric: true, of: b => b.errorShare, pool: p => p.total.errorShare, make: wrap(answers, (part, b) => part.show(b.rates, b.errorShare)) },
	{ key: 'p50', label: 'p50', numeric: true, of: b => b.data.latency_ms?.p50, pool: p => p.total.latency.p50, make: latency('p50'), needs: b => b.data.latency_ms },
	{ key: 'p95', label: 'p95', numeric: true, of: b => b.data.latency_ms?.p95, pool: p => p.total.latency.p95, make: latency('p95'), needs: b => b.data.latency_ms },
	{ key: 'p99', label: 'p99', numeric: true, of: b => b.data.latency_ms?.p99, pool: p => p.total.latency.p99, make: latency('p99'), needs: b => b.data.latency_ms },
	{ key: 'load', label: 'In flight', numeric: true, of: b => b.data.in_flight, pool: p => p.total.inFlight, make: wrap(share, (part, { data }) => {
		const part01 = cap(data) > 0 ? data.in_flight / cap(data) : undefined;
		part.show(load(data), part01, part01 >= 1 ? 'warn' : null);
	}) },
	{ key: 'weight', label: 'Weight', numeric: true, of: b => b.data.weight, make: wrap(share, (part, { data }) => {
		const ramping = data.usable && warmth(data) < 1;
		const less = data.effective_weight !== data.weight;
		part.show(less ? `${weight(data.effective_weight)} of ${weight(data.weight)}` : weight(data.weight), ramping ? warmth(data) : undefined, 'ok');
	}) },
	{ key: 'retries', label: 'Retries/s', numeric: true, of: b => b.rates.retries, pool: p => p.total.rates.retries, make: wrap(number, (part, b) => part.show(rate(b.rates.retries))), needs: b => b.data.retries !== undefined },
	bytes('bytes_in', 'In/s'),
	bytes('bytes_out', 'Out/s'),
	{ key: 'check', label: 'Last check', of: b => b.data.last_check?.ms, make: check, needs: b => b.data.last_check },
];

// compare orders backends by a column. Backends without a value come last; equal ones are ordered by name.
export function compare({ by, descending }) {
	const { of } = COLUMNS.find(c => c.key === by) ?? COLUMNS[0];
	if (!of) {
		return (a, b) => (descending ? byName(b.name, a.name) : byName(a.name, b.name));
	}
	return sorting(of, descending);
}

// comparePools orders pools by a column of numbers. For all other columns, pools in trouble come first.
export function comparePools({ by, descending }, rank) {
	const of = COLUMNS.find(c => c.key === by)?.pool;
	return of ? sorting(of, descending) : (a, b) => rank(a) - rank(b) || byName(a.name, b.name);
}

function sorting(of, descending) {
	return (a, b) => {
		const [x, y] = [of(a), of(b)];
		if (x === y || x === undefined && y === undefined) {
			return byName(a.name, b.name);
		}
		if (x === undefined || y === undefined) {
			return x === undefined ? 1 : -1;
		}
		return (descending ? y - x : x - y) || byName(a.name, b.name);
	};
}
