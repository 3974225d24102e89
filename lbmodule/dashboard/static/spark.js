// Small curves of the last seconds.

import { attr, svg } from './dom.js';

const YOUNG = 20; // smallest number of points that a curve's width stands for
const HEADROOM = 1.15; // above the highest point

// Spark is a curve of requests with one of errors in front of it. Screen readers skip it: its numbers are beside it.
export class Spark {
	constructor(points = 60, height = 22, kind = '') {
		this.points = points;
		this.skipZeros = kind === 'errors'; // no red line while nothing fails
		this.height = height;
		this.area = svg('path', { class: 'area' });
		this.line = svg('path', { class: 'line' });
		this.second = svg('path', { class: 'second' });
		this.node = svg('svg', { class: `spark ${kind}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
			this.area, this.line, this.second);
	}

	// show draws the latest values of ring, and those of other in the same scale. The scale ends at `least` or higher. A young ring has
	// fewer values, which are drawn wider.
	show(ring, other, least = 1) {
		const points = Math.min(Math.max(ring.age, YOUNG), this.points);
		this.shown = points;
		attr(this.node, 'viewBox', `0 0 ${points - 1} ${this.height}`);
		const values = ring.values.subarray(-points);
		this.top = least;
		for (const v of values) {
			this.top = v > this.top ? v : this.top;
		}
		const top = this.top * HEADROOM;
		const line = this.path(values, top, this.skipZeros);
		attr(this.line, 'd', line.open);
		attr(this.area, 'd', line.closed);
		attr(this.second, 'd', other ? this.path(other.values.subarray(-points), top, true).closed : null);
	}

	// path draws values, with gaps where a value is unknown, or zero if zeros are skipped.
	path(values, top, skipZeros = false) {
		let open = '';
		let closed = '';
		let from = -1;
		const base = this.height;
		const end = to => {
			if (from >= 0) {
				closed += `L${to} ${base}L${from} ${base}Z`;
			}
			from = -1;
		};
		values.forEach((v, x) => {
			if (Number.isNaN(v) || skipZeros && v === 0) {
				end(x - 1);
				return;
			}
			const y = (base - 1 - (base - 2) * Math.min(v / top, 1)).toFixed(1);
			const move = `${from < 0 ? 'M' : 'L'}${x} ${y}`;
			open += move;
			closed += move;
			from = from < 0 ? x : from;
		});
		end(values.length - 1);
		return { open, closed };
	}
}

// Blocks is one small square for each backend of a pool, in the colour of its state.
export class Blocks {
	constructor() {
		this.node = svg('svg', { class: 'blocks', 'aria-hidden': 'true' });
	}

	show(tones) {
		const key = tones.join();
		if (this.key === key) {
			return;
		}
		this.key = key;
		const perRow = tones.length > 100 ? 50 : 25;
		while (this.node.children.length > tones.length) {
			this.node.lastElementChild.remove();
		}
		tones.forEach((tone, i) => {
			const block = this.node.children[i] ?? this.node.appendChild(svg('rect', { x: 8 * (i % perRow), y: 8 * Math.floor(i / perRow), width: 6, height: 6, rx: 1.5 }));
			attr(block, 'data-tone', tone);
			attr(block, 'x', 8 * (i % perRow));
			attr(block, 'y', 8 * Math.floor(i / perRow));
		});
		const [width, height] = [8 * Math.min(perRow, tones.length) - 2, 8 * Math.ceil(tones.length / perRow) - 2];
		attr(this.node, 'viewBox', `0 0 ${width} ${height}`); // scales the blocks down if there is less room
		attr(this.node, 'width', width);
		attr(this.node, 'height', height);
	}
}
