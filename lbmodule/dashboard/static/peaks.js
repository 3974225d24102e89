// The largest numbers of what is remembered, beside those of now, and when they were.

import { Keyed, attr, el, text } from './dom.js';
import { few, millis, rate, volume } from './format.js';

const CODES = ['1xx', '2xx', '3xx', '4xx', '5xx'];

const known = v => typeof v === 'number';

// requests are those that were answered, whatever the code.
const requests = (series, i) => {
	const all = CODES.map(name => series[name]?.[i]).filter(known);
	return all.length > 0 ? all.reduce((sum, v) => sum + v, 0) : null;
};

const FIGURES = [
	{ label: 'Requests/s', of: requests, write: rate },
	{ label: 'In flight', key: 'in_flight', write: few },
	{ label: 'p95', key: 'p95_ms', write: millis },
	{ label: 'Out/s', key: 'bytes_out', write: volume },
	{ label: 'In/s', key: 'bytes_in', write: volume },
	{ label: 'Queue', key: 'queue', write: few },
];

// peak is the index of the largest value, of the latest one among equals; undefined if none is known, or all are zero.
export function peak(values) {
	let found;
	values.forEach((v, i) => {
		if (known(v) && v > 0 && !(v < values[found])) {
			found = i;
		}
	});
	return found;
}

// Peaks is a table. Its owner writes times, and is told which point somebody wants to see.
export class Peaks {
	constructor(owner) {
		this.words = el('span', { class: 'second' });
		this.rows = new Keyed(el('tbody'), ({ label }) => this.row(label, owner));
		this.node = el('div', { class: 'peaks' },
			el('h4', { id: 'peaks-title' }, 'Peaks', this.words),
			el('table', { 'aria-labelledby': 'peaks-title' },
				el('thead', null, el('tr', null, ...['Figure', 'Now', 'Peak', 'When'].map(label => el('th', { scope: 'col' }, label)))),
				this.rows.parent));
	}

	row(label, owner) {
		const [now, most] = [el('td'), el('td', { class: 'most' })];
		const when = el('button', { type: 'button', class: 'link' });
		const row = { node: el('tr', null, el('th', { scope: 'row' }, label), now, most, el('td', null, when)), update: ({ write, values, at, time }) => {
			row.at = at;
			const largest = at === undefined ? 0 : values[at];
			text(now, write(values.findLast(known)));
			text(most, write(largest));
			text(when, at === undefined ? '–' : owner.clock(time[at]));
			when.disabled = at === undefined;
			attr(when, 'aria-label', at === undefined ? 'never' : `Show ${owner.clock(time[at])}`);
		} };
		when.addEventListener('click', () => owner.point(row.at));
		return row;
	}

	// show shows the peaks of an answer of the server; words say of which time.
	show({ time, series }, words) {
		text(this.words, ` ${words}`);
		const rows = FIGURES.map(figure => ({ ...figure, time, values: time.map((_, i) => (figure.of ? figure.of(series, i) : series[figure.key]?.[i] ?? null)) }))
			.filter(({ values }) => values.some(known)).map(row => ({ ...row, at: peak(row.values) }));
		this.rows.show(rows, row => row.label);
	}
}
