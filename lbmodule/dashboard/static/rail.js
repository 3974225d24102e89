// The column beside the table: changes, events, the fleet, rate limits, express lanes, and the process.

import { $, Keyed, attr, el, hide, text, width } from './dom.js';
import { bytes, count, duration, moment, percent, rate } from './format.js';
import { Fleet } from './fleet.js';
import { makeLane } from './lane.js';
import { Spark } from './spark.js';
import { seconds } from './model.js';

const EVENTS = {
	backend_up: ['is up', 'ok'],
	backend_down: ['is down', 'bad'],
	breaker_opened: ['breaker opened', 'bad'],
	breaker_half_open: ['breaker half-open', 'warn'],
	breaker_closed: ['breaker closed', 'ok'],
	panic_began: ['panic: requests go to all backends that can be reached', 'bad'],
	panic_ended: ['panic ended', 'ok'],
	backend_added: ['added', 'info'],
	backend_changed: ['changed', 'info'],
	backend_removed: ['removed', 'info'],
	change_expired: ['change expired', 'info'],
	change_conflict: ['change conflicts with the config', 'warn'],
	canary_moved: ['canary share changed', 'info'],
	canary_rolled_back: ['canary rolled back', 'bad'],
	canary_changed: ['canary changed', 'info'],
	config_loaded: ['config loaded', 'info'],
	state_not_persisted: ['change could not be stored', 'warn'],
};

const SHOWN = 100;

// eventWords describes an event in one line.
export function eventWords({ name, data: { pool, backend, reason, error } }) {
	const [what, tone] = EVENTS[name] ?? [name.replaceAll('_', ' '), 'info'];
	return { tone, words: [`${backend || pool || ''} ${what}`, reason, error].filter(Boolean).join(' · ') };
}

// eventLine is one event in a list of events.
export function eventLine(event) {
	const [what, tone] = EVENTS[event.name] ?? [event.name.replaceAll('_', ' '), 'info'];
	const { pool, backend, reason, error } = event.data;
	const age = el('time');
	const node = el('li', { 'data-tone': tone }, el('span', { class: 'dot', 'aria-hidden': 'true' }),
		el('div', { class: 'two' },
			el('span', { class: 'first' }, el('strong', null, backend || pool || ''), ` ${what}`),
			el('span', { class: 'second' }, [backend ? pool : '', reason, error].filter(Boolean).join(' · '))),
		age);
	attr(age, 'title', moment(seconds(event.data.time) * 1000));
	return { node, update: model => {
		const passed = model.since(event.data.time);
		text(age, passed === undefined ? '' : passed < 1 ? 'now' : duration(passed));
	} };
}

// changed writes the value of a setting in the config and the running one, or only the latter if the config has none.
function changed({ config, running }) {
	const words = value => (value === null || value === undefined || value === '' ? 'none' : String(value));
	return config === undefined ? words(running) : `${words(config)} → ${words(running)}`;
}

// changeLine is a difference from the config, with a button to revert it if that is possible.
export function changeLine(actions) {
	const title = el('button', { type: 'button', class: 'link' });
	const what = el('span', { class: 'what' });
	const second = el('span', { class: 'second' });
	const undo = el('button', { type: 'button', class: 'small' }, 'Revert');
	const node = el('div', { class: 'change' }, el('div', { class: 'two' }, el('span', { class: 'first' }, title, what), second), undo);
	const child = { node, title, update: item => {
		const { change, pool, model } = child.item = item;
		text(title, change.backend);
		text(what, change.added ? ' was added' : change.removed ? ' was removed' : ` ${change.field}: ${changed(change)}`);
		const left = model.until(change.until);
		text(second, [pool, change.reason, change.owner ? `by ${change.owner}` : '', left === undefined ? '' : `${duration(left)} left`].filter(Boolean).join(' · '));
		hide(undo, !actions.allowed || !actions.canRevert(change.field));
		attr(undo, 'aria-label', `Revert ${change.field} of ${change.backend}`);
	} };
	undo.addEventListener('click', () => actions.revert(child.item.pool, child.item.change.backend, child.item.change.field));
	return child;
}

export class Rail {
	constructor(view, actions) {
		this.feed = new Keyed($('feed-list'), item => {
			const line = eventLine(item.event);
			return { node: line.node, update: ({ model }) => line.update(model) };
		});
		this.changes = new Keyed($('changes-list'), () => {
			const line = changeLine(actions);
			line.title.addEventListener('click', () => view.set({ pool: line.item.pool, backend: line.item.change.backend }));
			return line;
		});
		this.zones = new Keyed($('zones-list'), () => makeZone());
		this.lanes = new Keyed($('lanes-list'), () => makeLane());
		this.fleet = new Fleet();
		this.numbers = PROCESS.map(number => makeNumber(number));
		$('process-list').append(...this.numbers.flatMap(number => number.nodes));
		this.quiet = el('li', { class: 'empty' }, 'No events yet.');
	}

	show(model) {
		if (model.events.length === 0) {
			$('feed-list').replaceChildren(this.quiet);
		} else {
			this.feed.show(model.events.slice(0, SHOWN).map(event => ({ event, model })), ({ event }) => `${event.boot}-${event.id}`);
		}
		const changes = differences(model);
		hide($('changes'), changes.length === 0);
		const config = Object.values(model.snapshot.diffs ?? {}).map(diff => diff.caddyfile ?? '').join('');
		hide($('changes-config'), config === '');
		text($('changes-text'), config);
		this.changes.show(changes, ({ pool, change }) => `${pool} ${change.backend} ${change.field ?? ''}`);
		hide($('zones'), model.zones.size === 0);
		this.zones.show([...model.zones.values()], zone => zone.data.zone);
		hide($('lanes'), model.lanes.size === 0);
		this.lanes.show([...model.lanes.values()], lane => lane.data.server);
		this.fleet.show(model);
		const { process } = model.snapshot;
		hide($('process'), !process);
		if (process) {
			this.numbers.forEach(number => number.show(model));
		}
	}
}

// differences returns how the running settings differ from the config.
function differences(model) {
	return Object.entries(model.snapshot.diffs ?? {}).flatMap(([pool, diff]) => (diff.changes ?? []).map(change => ({ pool, change, model })));
}

function makeZone() {
	const name = el('strong');
	const limit = el('span', { class: 'second' });
	const tags = el('span', { class: 'tags' });
	const refused = el('span', { class: 'number' });
	const spark = new Spark(60, 22, 'errors');
	const filled = el('span');
	const keys = el('span', { class: 'second keys' });
	const node = el('div', { class: 'zone' }, el('span', { class: 'first' }, name, tags), refused, limit, spark.node,
		el('span', { class: 'bar thin', 'aria-hidden': 'true' }, filled), keys);
	return { node, update: zone => {
		const { data, rates } = zone;
		text(name, data.zone);
		text(limit, [data.rate, data.concurrency ? `${count(data.concurrency)} at once` : '', `${rate(rates.allowed)} allowed/s`].filter(Boolean).join(' · '));
		const marks = [data.dry_run ? 'dry run' : '', data.store ? (data.store.available ? 'shared' : 'store unavailable') : ''].filter(Boolean);
		if (tags.dataset.marks !== marks.join()) {
			tags.dataset.marks = marks.join();
			tags.replaceChildren(...marks.map(mark => el('span', { class: 'tag', 'data-tone': mark === 'store unavailable' ? 'warn' : null }, mark)));
		}
		const counted = data.dry_run ? rates.dry_run : rates.refused;
		text(refused, `${rate(counted)} ${data.dry_run ? 'would be refused' : 'refused'}/s`);
		attr(refused, 'data-tone', counted > 0 && !data.dry_run ? 'warn' : null);
		spark.show(zone.refused);
		width(filled, data.max_keys > 0 ? data.keys / data.max_keys : 0);
		text(keys, [`${count(data.keys)} of ${count(data.max_keys)} clients`, data.evictions > 0 ? `${count(data.evictions)} evicted` : ''].filter(Boolean).join(' · '));
	} };
}

const PROCESS = [
	{ label: 'CPU', of: m => (m.process.counted.rates.cpu === undefined ? undefined : percent(m.process.counted.rates.cpu)), ring: m => m.process.cpu, top: 0.1 },
	{ label: 'Memory', of: m => m.snapshot.process.memory && bytes(m.snapshot.process.memory), ring: m => m.process.memory },
	{ label: 'Goroutines', of: m => m.snapshot.process.goroutines && count(m.snapshot.process.goroutines), ring: m => m.process.goroutines },
	{ label: 'Open files', of: m => m.snapshot.process.open_files && count(m.snapshot.process.open_files), ring: m => m.process.files },
	{ label: 'Running for', of: m => m.since(m.snapshot.process.started) && duration(m.since(m.snapshot.process.started)) },
];

function makeNumber({ label, of, ring, top }) {
	const value = el('span', { class: 'number' });
	const spark = ring ? new Spark(60, 22) : null;
	const nodes = [el('dt', null, label), el('dd', null, spark?.node, value)];
	return { nodes, show(model) {
		const words = of(model);
		nodes.forEach(node => hide(node, !words));
		text(value, words || '');
		spark?.show(ring(model), null, top);
	} };
}
