// Formats of numbers and times. Values that are not numbers become a dash, or nothing.

const DASH = '–';
const grouped = new Intl.NumberFormat('en'); // toLocaleString would make one for each call
const known = n => typeof n === 'number' && Number.isFinite(n);

// count writes 950, 1,234, 56.7k, 1.2M.
export function count(n) {
	if (!known(n)) {
		return DASH;
	}
	const size = Math.abs(n);
	if (size >= 999_500) {
		return short(n, [[1e12, 'T'], [1e9, 'G'], [1e6, 'M']]);
	}
	return size >= 10_000 ? short(n, [[1e3, 'k']]) : grouped.format(Math.round(n));
}

function short(n, units) {
	const [unit, letter] = units.find(([u]) => Math.abs(n) >= u * 0.9995) ?? units.at(-1);
	const value = n / unit;
	return value.toFixed(Math.abs(value) < 99.95 ? 1 : 0) + letter;
}

// rate writes a number per second, small ones with one more digit.
export function rate(n) {
	if (!known(n)) {
		return DASH;
	}
	return n > 0 && n < 9.95 ? (n < 0.05 ? '<0.1' : n.toFixed(1)) : count(n);
}

// few writes a number that may be a fraction, such as a mean.
export function few(n) {
	return n < 9.95 && !Number.isInteger(n) ? n.toFixed(1) : count(n);
}

// percent writes a share from 0 to 1.
export function percent(share) {
	if (!known(share)) {
		return DASH;
	}
	const p = 100 * share;
	if (p === 0) {
		return '0 %';
	}
	if (p < 0.1) {
		return '<0.1 %';
	}
	return `${p < 9.95 ? p.toFixed(1) : p >= 99.95 ? '100' : p > 99 ? p.toFixed(1) : p.toFixed(0)} %`;
}

// millis writes a latency.
export function millis(ms) {
	if (!known(ms)) {
		return DASH;
	}
	if (ms < 0.95) {
		return ms < 0.05 ? '<0.1 ms' : `${ms.toFixed(1)} ms`;
	}
	if (ms < 9.95) {
		return `${ms.toFixed(1)} ms`;
	}
	return ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;
}

// bytes writes a size of memory, in powers of 1024.
export function bytes(n) {
	if (!known(n)) {
		return DASH;
	}
	const [unit, name] = [[2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']].find(([u]) => n >= u) ?? [1, 'B'];
	const value = n / unit;
	return `${unit === 1 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1)} ${name}`;
}

// volume writes a number of bytes sent or received, in powers of 1000: 950 B, 1.2 kB, 3.4 MB.
export function volume(n) {
	if (!known(n)) {
		return DASH;
	}
	return n < 999.5 ? `${Math.round(n)} B` : `${short(n, [[1e15, ' P'], [1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']])}B`;
}

// duration writes a number of seconds in its two largest units.
export function duration(seconds) {
	if (!known(seconds)) {
		return DASH;
	}
	const s = Math.max(0, Math.floor(seconds));
	if (s < 60) {
		return `${s}s`;
	}
	if (s < 3600) {
		return `${Math.floor(s / 60)}m ${s % 60}s`;
	}
	if (s < 86_400) {
		return `${Math.floor(s / 3600)}h ${Math.floor(s % 3600 / 60)}m`;
	}
	return `${Math.floor(s / 86_400)}d ${Math.floor(s % 86_400 / 3600)}h`;
}

// weight writes a weight, which may be a fraction, with at most two decimals.
export function weight(w) {
	return known(w) ? String(Math.round(w * 100) / 100) : DASH;
}

// moment writes a time, given in milliseconds since 1970, with its date.
export function moment(milliseconds) {
	return known(milliseconds) ? new Date(milliseconds).toLocaleString() : '';
}

const collator = new Intl.Collator('en', { numeric: true });

// byName orders names with numbers in them by their values: a-2 comes before a-10.
export const byName = (a, b) => collator.compare(a, b);

// plural writes a number with a noun: 1 backend, 2 backends.
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
