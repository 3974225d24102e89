// The data that the page shows: the latest snapshot, and the rates and curves computed from earlier ones. Nothing here touches the
// document. All times are the server's, because the browser's clock may be wrong.

import { statusOf } from './status.js';

const HISTORY = 120; // seconds, for the curves
const WINDOW = 5; // snapshots over which rates are averaged, so that the numbers are steady enough to read

// Ring holds the latest numbers, NaN where a number is unknown. Its age is the number of values pushed. What appears later starts with
// the age of its pool or page, so that all curves have the same time scale.
export class Ring {
	constructor(age = 0) {
		this.values = new Float32Array(HISTORY).fill(NaN);
		this.age = age;
	}

	push(value) {
		this.values.copyWithin(0, 1);
		this.values[HISTORY - 1] = value ?? NaN;
		this.age++;
	}

	get latest() {
		return this.values[HISTORY - 1];
	}
}

export const seconds = time => Date.parse(time) / 1000;

const CLASSES = ['2xx', '3xx', '4xx', '5xx'];

// Counted computes rates from rising counters.
class Counted {
	constructor() {
		this.samples = [];
		this.rates = {};
	}

	// take adds the counters at a time and returns the rate of each since the last time. There are no rates the first time, and after
	// a counter fell, as it does when the server restarts.
	take(time, counters) {
		const before = this.samples.at(-1);
		if (before && Object.keys(counters).some(name => counters[name] < before.counters[name])) {
			this.samples = [];
		}
		const latest = perSecond(this.samples.at(-1), time, counters);
		this.samples.push({ time, counters });
		if (this.samples.length > WINDOW + 1) {
			this.samples.shift();
		}
		this.rates = perSecond(this.samples[0], time, counters);
		return latest;
	}
}

function perSecond(before, time, counters) {
	const rates = {};
	const passed = before ? time - before.time : 0;
	if (passed > 0) {
		for (const name of Object.keys(counters)) {
			const gained = (counters[name] - before.counters[name]) / passed;
			if (Number.isFinite(gained)) {
				rates[name] = gained;
			}
		}
	}
	return rates;
}

const sum = (items, of) => items.reduce((total, item) => total + (of(item) || 0), 0);
const worst = (items, of) => items.reduce((most, item) => (of(item) > (most ?? -1) ? of(item) : most), undefined);

// errorsOf returns the rate of errors: the larger one of 5xx answers and failures. Some failures have no answer, others a 5xx, so their
// sum would count errors twice.
function errorsOf(rates) {
	return Math.max(rates['5xx'] ?? rates.failures, rates.failures ?? rates['5xx']);
}

// errorShare returns the share of requests that failed, undefined if there were no requests.
function errorShare(rates) {
	const total = Math.max(rates.requests ?? 0, sum(CLASSES, name => rates[name]));
	return total > 0 ? Math.min(errorsOf(rates) / total, 1) : undefined;
}

// Backend is a backend with its rates and curves.
class Backend {
	constructor(pool, name) {
		this.pool = pool;
		this.name = name;
		this.counted = new Counted();
		this.requests = new Ring(pool.requests.age);
		this.errors = new Ring(pool.requests.age);
	}

	take(data, time, missed) {
		this.data = data;
		this.status = statusOf(data);
		const counters = { requests: data.requests, failures: data.failures };
		if (data.retries !== undefined) {
			counters.retries = data.retries;
		}
		for (const name of data.codes ? CLASSES : []) {
			counters[name] = data.codes[name] ?? 0;
		}
		addBytes(counters, data);
		const latest = this.counted.take(time, counters);
		skip(missed, this.requests, this.errors);
		this.requests.push(latest.requests);
		this.errors.push(errorsOf(latest));
		this.rates = this.counted.rates;
		this.errorShare = errorShare(this.rates);
	}
}

// addBytes adds the bytes sent and received, if the server counts them.
function addBytes(counters, data) {
	for (const name of ['bytes_in', 'bytes_out']) {
		if (data[name] !== undefined) {
			counters[name] = data[name];
		}
	}
}

function skip(missed, ...rings) {
	for (let i = 0; i < missed; i++) {
		rings.forEach(ring => ring.push(NaN));
	}
}

// Pool is a pool with its rates and curves. It counts each client request once, including those that no backend answered.
class Pool {
	constructor(name, age) {
		this.name = name;
		this.backends = new Map();
		this.counted = new Counted();
		this.requests = new Ring(age);
		this.errors = new Ring(age);
	}

	take(data, time, missed) {
		this.data = data;
		const backends = new Map();
		for (const b of data.backends ?? []) {
			const backend = this.backends.get(b.name) ?? new Backend(this, b.name);
			backend.take(b, time, missed);
			backends.set(b.name, backend);
		}
		this.backends = backends;
		const all = [...backends.values()];
		const counters = { requests: data.requests, canceled: data.canceled, refused: sum(Object.values(data.refused ?? {}), n => n), ...data.codes };
		addBytes(counters, data);
		const latest = this.counted.take(time, counters);
		skip(missed, this.requests, this.errors);
		this.requests.push(latest.requests);
		this.errors.push(latest['5xx']);
		// Until there are two snapshots, the server's own rates are shown.
		const { per_second: before } = data;
		const rates = this.counted.rates.requests === undefined && before?.seconds > 0
			? { requests: before.requests, canceled: before.canceled, refused: sum(Object.values(before.refused), n => n), ...before.codes }
			: { ...this.counted.rates };
		if (all.some(b => b.rates.retries !== undefined)) {
			rates.retries = sum(all, b => b.rates.retries);
		}
		this.suffix = commonSuffix(all.map(b => b.name));
		this.total = { rates, errorShare: answered(rates), inFlight: sum(all, b => b.data.in_flight), latency: data.latency_ms ?? {} };
	}
}

// commonSuffix returns the longest domain that all names end in, with its leading dot; '' if there is none.
export function commonSuffix(names) {
	if (names.length < 2) {
		return '';
	}
	let suffix = names[0].slice(names[0].indexOf('.'));
	while (suffix.startsWith('.') && !names.every(name => name.length > suffix.length && name.endsWith(suffix))) {
		const next = suffix.indexOf('.', 1);
		suffix = next < 0 ? '' : suffix.slice(next);
	}
	return /^\..*[a-z]/i.test(suffix) ? suffix : '';
}

// answered returns the share of requests answered with an error, without those that clients canceled.
function answered(rates) {
	const asked = rates.requests - (rates.canceled ?? 0);
	return asked > 0 ? Math.min((rates['5xx'] ?? 0) / asked, 1) : undefined;
}

// total adds up pools. Its latencies are those of the worst pool, because percentiles cannot be added.
function total(pools) {
	const rates = {};
	for (const name of ['requests', 'canceled', 'refused', 'retries', ...CLASSES]) {
		if (pools.some(p => p.total.rates[name] !== undefined)) {
			rates[name] = sum(pools, p => p.total.rates[name]);
		}
	}
	const latest = ring => (pools.some(p => !Number.isNaN(p[ring].latest)) ? sum(pools, p => p[ring].latest) : NaN);
	const slowest = name => worst(pools, p => p.total.latency[name]);
	return {
		rates,
		errorShare: answered(rates),
		inFlight: sum(pools, p => p.total.inFlight),
		queue: sum(pools, p => p.data.queue),
		latestRequests: latest('requests'),
		latestErrors: latest('errors'),
		latency: { p50: slowest('p50'), p95: slowest('p95'), p99: slowest('p99') },
	};
}

const MOST_EVENTS = 200;

export class Model {
	constructor() {
		this.pools = new Map();
		this.zones = new Map();
		this.lanes = new Map();
		this.events = []; // newest first
		this.requests = new Ring();
		this.errors = new Ring();
		this.slowest = new Ring();
		this.inFlight = new Ring();
		this.process = { counted: new Counted(), cpu: new Ring(), memory: new Ring(), goroutines: new Ring(), files: new Ring() };
		this.time = undefined; // of the snapshot, in seconds
	}

	backends() {
		return [...this.pools.values()].flatMap(pool => [...pool.backends.values()]);
	}

	// take updates the model from a snapshot.
	take(snapshot) {
		const time = seconds(snapshot.time);
		const passed = this.time === undefined ? 1 : Math.round(time - this.time);
		const missed = Math.min(Math.max(passed - 1, 0), HISTORY);
		this.snapshot = snapshot;
		this.time = time;
		this.pools = takeAll(this.pools, snapshot.pools ?? [], 'name', name => new Pool(name, this.requests.age), time, missed);
		this.lanes = takeAll(this.lanes, snapshot.express ?? [], 'server', () => new Lane(), time, missed);
		this.zones = takeAll(this.zones, snapshot.rate_limits ?? [], 'zone', () => new Zone(), time, missed);
		this.total = total([...this.pools.values()]);
		skip(missed, this.requests, this.errors, this.slowest, this.inFlight);
		this.requests.push(this.total.latestRequests);
		this.errors.push(this.total.latestErrors);
		this.slowest.push(this.total.latency.p95);
		this.inFlight.push(this.total.inFlight);
		this.takeProcess(snapshot.process ?? {}, time, missed);
	}

	takeProcess(p, time, missed) {
		const { counted, cpu, memory, goroutines, files } = this.process;
		const latest = counted.take(time, p.cpu_seconds === undefined ? {} : { cpu: p.cpu_seconds });
		skip(missed, cpu, memory, goroutines, files);
		cpu.push(latest.cpu);
		memory.push(p.memory);
		goroutines.push(p.goroutines);
		files.push(p.open_files);
	}

	// happened adds an event and reports whether it is new.
	happened(event) {
		const news = !this.events.some(e => e.id === event.id && e.boot === event.boot);
		if (news) {
			this.events.unshift(event);
			this.events.length = Math.min(this.events.length, MOST_EVENTS);
		}
		return news;
	}

	// since returns the seconds since a time, undefined if the time is unknown.
	since(time) {
		const s = seconds(time);
		return Number.isFinite(s) && s > 0 ? Math.max(this.time - s, 0) : undefined;
	}

	// until returns the seconds until a time, undefined if the time is unknown or has passed.
	until(time) {
		const left = seconds(time) - this.time;
		return left > 0 ? left : undefined;
	}
}

// Zone is a zone of rate limits.
class Zone {
	constructor() {
		this.counted = new Counted();
		this.refused = new Ring();
	}

	take(data, time, missed) {
		this.data = data;
		const latest = this.counted.take(time, data.decisions ?? {});
		skip(missed, this.refused);
		this.refused.push(latest.refused);
		this.rates = this.counted.rates;
	}
}

// Lane is the express lane of a server.
class Lane {
	constructor() {
		this.counted = new Counted();
		this.served = new Ring();
	}

	take(data, time, missed) {
		this.data = data;
		this.handedOver = sum(Object.values(data.handed_over ?? {}), n => n);
		const latest = this.counted.take(time, { served: data.served, handedOver: this.handedOver });
		skip(missed, this.served);
		this.served.push(latest.served);
		this.rates = this.counted.rates;
	}
}

function takeAll(before, list, key, make, time, missed) {
	const next = new Map();
	for (const data of list) {
		const item = before.get(data[key]) ?? make(data[key]);
		item.take(data, time, missed);
		next.set(data[key], item);
	}
	return next;
}
