// Graphs of the history, drawn by uPlot on a canvas, each with its numbers as text.

import { attr, el, text } from './dom.js';

const { uPlot } = globalThis;

const FONT = '11px system-ui, sans-serif';
const HEIGHT = 150;
const HEADROOM = 1.1; // above the highest point

// STEPS are the distances between marks of the time axis, in seconds. uPlot's own lack 2 minutes, so that 5 minutes had one mark.
const STEPS = [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

// colour returns a colour of the theme. Canvases cannot use CSS variables.
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const known = v => typeof v === 'number';

// total adds up the known numbers, null if there are none.
const total = values => (values.some(known) ? values.reduce((sum, v) => sum + (v ?? 0), 0) : null);

// alone returns the indexes of the values without known neighbours: no line leads to them, so they are drawn as points.
const alone = values => values.flatMap((v, i) => (known(v) && !known(values[i - 1]) && !known(values[i + 1]) ? [i] : []));

// stack puts series on top of each other, the first one at the bottom.
export function stack(series) {
	return series.map((_, i) => series[i].map((_, x) => total(series.slice(0, i + 1).map(s => s[x]))));
}

// Graph draws series over time. It reports the point under the cursor to its owner, which calls point on all graphs.
export class Graph {
	constructor({ title, unit, lines, write, stacked = false }, owner) {
		Object.assign(this, { title, lines, write, stacked, owner });
		this.values = lines.map(({ label, tone }) => {
			const value = el('b');
			const swatch = tone ? el('i', { 'aria-hidden': 'true' }) : null;
			if (swatch) {
				swatch.style.background = `var(${tone})`;
			}
			return { value, node: el('span', null, swatch, `${label} `, value) };
		});
		this.canvas = el('div', { class: 'canvas', role: 'img' });
		this.node = el('div', { class: 'graph' }, el('h4', null, title, el('span', { class: 'second' }, ` ${unit}`)),
			el('p', { class: 'readout' }, ...this.values.map(v => v.node)), this.canvas);
		this.size = new ResizeObserver(() => this.fit());
		this.size.observe(this.canvas);
	}

	options() {
		const axis = { stroke: () => colour('--soft'), font: FONT, grid: { stroke: () => colour('--line'), width: 1 }, ticks: { stroke: () => colour('--line'), width: 1, size: 4 } };
		const series = this.lines.map(({ tone, dash }) => ({
			stroke: () => colour(tone), width: this.stacked ? 1 : 1.5, dash, points: { show: true, size: 4, filter: (u, i) => alone(u.data[i]) }, ...(this.stacked ? { fill: () => colour(tone) } : {}),
		}));
		return {
			width: Math.max(this.canvas.clientWidth, 100), height: HEIGHT, padding: [8, 24, 0, 0], legend: { show: false }, select: { show: false },
			cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
			scales: { x: { time: true, range: (_, from, to) => [from, to] }, y: { range: (_, least, most) => this.scale(most) } },
			axes: [{ ...axis, space: 64, size: 26, incrs: STEPS }, { ...axis, size: 54, space: 28, values: (_, ticks) => ticks.map(v => this.tick(v)) }],
			// The areas of a stack overlap, so its bottom is drawn last, in front of the others.
			series: [{}, ...(this.stacked ? series.reverse() : series)],
			hooks: { setCursor: [u => this.owner.point(u.cursor.idx ?? null, this)], draw: [u => this.draw(u)] },
		};
	}

	// tick writes a number of the axis: small ones with two digits, because write may round them to the same text.
	tick(v) {
		return v === 0 ? '0' : v < 9.95 ? this.write(1).replace(/^1(\.0)?/, String(Number(v.toPrecision(2)))) : this.write(v);
	}

	scale(most) {
		return [0, most > 0 ? most * HEADROOM : 1];
	}

	// show draws series, one array of values each.
	show(times, series) {
		this.times = times;
		this.raw = series;
		const drawn = this.stacked ? stack(series).reverse() : series;
		if (this.plot) {
			this.plot.setData([times, ...drawn]);
		} else {
			this.plot = new uPlot(this.options(), [times, ...drawn], this.canvas);
		}
		attr(this.canvas, 'aria-label', this.summary());
	}

	// summary describes the graph for screen readers.
	summary() {
		const parts = this.lines.map(({ label }, i) => {
			const values = this.raw[i].filter(known);
			return values.length === 0 ? `${label} unknown` : `${label} from ${this.write(Math.min(...values))} to ${this.write(Math.max(...values))}`;
		});
		return `${this.title}: ${parts.join(', ')}`;
	}

	// point shows the numbers of one point; if marked is true, it draws the cursor there.
	point(at, marked) {
		this.values.forEach(({ value }, i) => text(value, this.write(this.raw[i][at] ?? undefined)));
		const left = marked ? this.plot.valToPos(this.times[at], 'x') : -10;
		if (this.plot.cursor.left !== left) {
			this.quiet = true;
			this.plot.setCursor({ left, top: marked ? 1 : -10 }, false);
			this.quiet = false;
		}
	}

	draw(u) {
		const { ctx, bbox } = u;
		ctx.save();
		ctx.setLineDash([3, 3]);
		ctx.lineWidth = devicePixelRatio;
		for (const { time, tone } of this.owner.marks) {
			if (time >= u.scales.x.min && time <= u.scales.x.max) {
				const x = Math.round(u.valToPos(time, 'x', true)) + 0.5;
				ctx.strokeStyle = colour(`--${tone}`);
				ctx.beginPath();
				ctx.moveTo(x, bbox.top);
				ctx.lineTo(x, bbox.top + bbox.height);
				ctx.stroke();
			}
		}
		ctx.restore();
	}

	redraw() {
		this.plot?.redraw(false, true);
	}

	fit() {
		const width = this.canvas.clientWidth;
		if (this.plot && width > 0 && width !== this.plot.width) {
			this.plot.setSize({ width, height: HEIGHT });
		}
	}

	end() {
		this.size.disconnect();
		this.plot?.destroy();
	}
}

// Heat is a heat map of durations: a column for each point, a field for each bucket; more answers make a field darker.
export class Heat extends Graph {
	constructor(options, owner) {
		super({ ...options, lines: [{ label: 'most took' }, { label: 'answers/s' }] }, owner);
	}

	options() {
		const options = super.options();
		options.series = [{}, { paths: () => null, points: { show: false } }, { paths: () => null, points: { show: false } }];
		options.axes[1].splits = () => [2, 5, 8, 11, 14].map(k => k + 1);
		options.axes[1].values = (_, ticks) => ticks.map(k => this.write(this.ends[k - 1]));
		options.hooks.drawAxes = [u => this.drawFields(u)];
		return options;
	}

	scale() {
		return [0, this.ends.length + 1];
	}

	showHeat(times, heat) {
		this.ends = heat.up_to_ms;
		this.counts = heat.counts;
		this.most = Math.max(...heat.counts.flat(), 0);
		const none = times.map(() => null);
		this.show(times, [none, none]);
	}

	summary() {
		const all = this.counts.filter(c => c.length > 0);
		if (all.length === 0 || this.most === 0) {
			return `${this.title}: no answers`;
		}
		const sums = this.ends.concat(NaN).map((_, k) => all.reduce((sum, c) => sum + c[k], 0));
		return `${this.title}: most answers took ${this.bucket(sums.indexOf(Math.max(...sums)))}`;
	}

	bucket(k) {
		return k < this.ends.length ? `up to ${this.write(this.ends[k])}` : `more than ${this.write(this.ends[k - 1])}`;
	}

	point(at, marked) {
		super.point(at, marked);
		const counts = this.counts[at] ?? [];
		const sum = total(counts) ?? undefined;
		text(this.values[0].value, sum > 0 ? this.bucket(counts.indexOf(Math.max(...counts))) : '–');
		text(this.values[1].value, this.owner.rate(sum));
	}

	drawFields(u) {
		const { ctx } = u;
		const wide = Math.max(u.bbox.width / Math.max(this.times.length - 1, 1), 1);
		ctx.save();
		ctx.beginPath();
		ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
		ctx.clip();
		ctx.fillStyle = colour('--spark');
		this.counts.forEach((counts, i) => {
			const x = u.valToPos(this.times[i], 'x', true) - wide;
			counts.forEach((n, k) => {
				if (n > 0 && this.most > 0) {
					const [top, bottom] = [u.valToPos(k + 1, 'y', true), u.valToPos(k, 'y', true)];
					// The square root keeps fields with few answers visible beside those with many.
					ctx.globalAlpha = 0.12 + 0.88 * Math.sqrt(n / this.most);
					ctx.fillRect(Math.floor(x), Math.floor(top) + 1, Math.ceil(wide), Math.ceil(bottom - top) - 1);
				}
			});
		});
		ctx.restore();
	}
}
