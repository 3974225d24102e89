// The peaks of the history, with their times, beside the latest values.

import { Keyed, attr, el, text } from './dom.js';
import { few, millis, rate, volume } from './format.js';

const CODES = ['1xx', '2xx', '3xx', '4xx', '5xx'];

const known = v => typeof v === 'number';

// requests returns the answers of all codes at one point, null if none is known.
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

// peak returns the index of the largest value, the latest among equal ones; undefined if no value is known, or all are zero.
export function peak(values) {
	let found;
	values.forEach((v, i) => {
		if (known(v) && v > 0 && !(v < values[found])) {
			found = i;
		}
	});
	return found;
}

// Peaks is the table of peaks. Its owner formats the times, and shows the point whose time was clicked.
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

	// show shows the peaks of an answer of the server; words name its range.
	show({ time, series }, words) {
		text(this.words, ` ${words}`);
		const rows = FIGURES.map(figure => ({ ...figure, time, values: time.map((_, i) => (figure.of ? figure.of(series, i) : series[figure.key]?.[i] ?? null)) }))
			.filter(({ values }) => values.some(known)).map(row => ({ ...row, at: peak(row.values) }));
		this.rows.show(rows, row => row.label);
	}
}
