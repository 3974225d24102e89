// The states of backends and pools, the worst first.

export const STATUSES = {
	down: { label: 'Down', tone: 'bad', group: 'trouble' },
	open: { label: 'Breaker open', tone: 'bad', group: 'trouble' },
	half_open: { label: 'Half-open', tone: 'warn', group: 'trouble' },
	full: { label: 'Full', tone: 'warn', group: 'trouble' },
	unchecked: { label: 'Unchecked', tone: 'warn', group: 'trouble' },
	avoided: { label: 'Avoided', tone: 'warn', group: 'up' },
	removing: { label: 'Leaving', tone: 'out', group: 'out' },
	drain: { label: 'Draining', tone: 'out', group: 'out' },
	maintenance: { label: 'Maintenance', tone: 'out', group: 'out' },
	parked: { label: 'Weight 0', tone: 'out', group: 'out' },
	ramping: { label: 'Ramping up', tone: 'ok', group: 'up' },
	up: { label: 'Up', tone: 'ok', group: 'up' },
};

Object.keys(STATUSES).forEach((name, rank) => { STATUSES[name].rank = rank; });

export const POOL_STATES = {
	down: { label: 'Down', tone: 'bad' },
	panic: { label: 'Panic', tone: 'bad' },
	degraded: { label: 'Degraded', tone: 'warn' },
	ok: { label: 'OK', tone: 'ok' },
};

Object.keys(POOL_STATES).forEach((name, rank) => { POOL_STATES[name].rank = rank; });

// poolState returns the state of a pool. The API's state is only about the backends: a pool can fail while all of them are usable.
export function poolState({ state, problems }) {
	if (state === 'ok' && problems?.some(p => p.severity === 'bad')) {
		return { label: 'Failing', tone: 'bad', rank: 1 };
	}
	return POOL_STATES[state] ?? { label: state, tone: 'idle', rank: 9 };
}

// cap returns how many requests a backend gets at a time, undefined if there is no limit. With max_requests auto it is the measured limit.
export const cap = b => b.limit ?? b.max_requests;

// statusOf returns the key in STATUSES of a backend of the API.
export function statusOf(b) {
	if (b.removing) {
		return 'removing';
	}
	if (b.state === 'drain' || b.state === 'maintenance') {
		return b.state;
	}
	if (!b.usable) {
		return whyUnusable(b);
	}
	if (cap(b) > 0 && b.in_flight >= cap(b)) {
		return 'full';
	}
	if (b.avoided) {
		return 'avoided';
	}
	return warmth(b) < 1 ? 'ramping' : 'up';
}

function whyUnusable(b) {
	if (b.weight === 0) {
		return 'parked';
	}
	// A breaker may be open because the backend cannot be reached; then Down is the more precise word.
	const unreachable = /reach|dead/.test(b.reason ?? '');
	if (b.health !== 'down' && !unreachable && (b.breaker === 'open' || b.breaker === 'half_open')) {
		return b.breaker;
	}
	return /not checked/.test(b.reason ?? '') ? 'unchecked' : 'down';
}

// begun returns when a backend got its state. It is undefined for full and avoided backends: the API has no time for these.
export const begun = b => (b.status === 'full' || b.status === 'avoided' ? undefined : b.data.since);

// warmth returns the share of its weight that a backend has during slow start, 1 otherwise.
export function warmth(b) {
	if (typeof b.slow_start === 'number') {
		return b.slow_start;
	}
	return b.effective_weight > 0 && b.weight > 0 ? Math.min(b.effective_weight / b.weight, 1) : 1;
}
