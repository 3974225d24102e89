// The page: the stream's messages update the model, and the parts of the page show it.

import { Actions } from './actions.js';
import { Detail } from './detail.js';
import { $, attr, el, hide, text } from './dom.js';
import { count, duration } from './format.js';
import { Model } from './model.js';
import { Rail } from './rail.js';
import { STATUSES } from './status.js';
import { Stream } from './stream.js';
import { Summary } from './summary.js';
import { Table } from './table.js';
import { View } from './view.js';

const model = new Model();
const view = new View(() => show());
const actions = new Actions();
const summary = new Summary(view);
const table = new Table(view);
const rail = new Rail(view, actions);
const detail = new Detail(view, actions);

let paused = false;
let latest; // the last snapshot that came while the page was paused
let boot = '';
let build = '';
let frame = 0;
let trouble = ''; // the error if the server could not make a snapshot

const SHOWS = { all: 'All', trouble: 'Trouble', up: 'Up', out: 'Out' };
const shows = Object.entries(SHOWS).map(([key, label]) => {
	const number = el('span', { class: 'count' });
	const node = el('button', { type: 'button', 'aria-pressed': 'false' }, `${label} `, number);
	node.addEventListener('click', () => view.set({ show: key }));
	$('shows').append(node);
	return { key, node, number };
});

// show shows the model in the next frame, once for all messages that come before it.
function show() {
	if (frame === 0) {
		frame = requestAnimationFrame(() => {
			frame = 0;
			render();
		});
	}
}

function render() {
	if (document.activeElement !== $('search') && $('search').value !== view.q) {
		$('search').value = view.q;
	}
	if (!model.snapshot) {
		return;
	}
	text($('node'), model.snapshot.node ?? '');
	const backends = model.backends();
	for (const { key, node, number } of shows) {
		attr(node, 'aria-pressed', String(view.show === key));
		text(number, count(key === 'all' ? backends.length : backends.filter(b => STATUSES[b.status].group === key).length));
	}
	summary.show(model);
	table.show(model);
	rail.show(model);
	detail.show(model);
}

const stream = new Stream({
	hello(visit) {
		// If the server has another build of the page, this one may not understand its messages.
		if (build !== '' && build !== visit.build) {
			location.reload();
		}
		build = visit.build;
		boot = visit.boot;
		actions.allowed = visit.actions;
		text($('who'), visit.actions ? visit.user : visit.login ? 'read-only: log in for changes' : 'read-only');
		show();
	},
	state(snapshot) {
		trouble = '';
		if (paused) {
			latest = snapshot;
			return;
		}
		model.take(snapshot);
		show();
	},
	event(event) {
		model.happened({ ...event, boot });
		show();
	},
	trouble({ error }) {
		trouble = error;
	},
	health(how) {
		const age = duration(how.age / 1000);
		document.body.classList.toggle('old', Boolean(how.stale || how.lost) && !paused);
		summary.setLost(Boolean(how.stale || how.lost) || paused);
		if (paused) {
			health('idle', 'paused');
		} else if (how.lost) {
			health('bad', `${how.problem || 'connection lost'}; ${model.snapshot ? `what you see is ${age} old, ` : ''}next try in ${Math.ceil(how.retry / 1000)}s`);
		} else if (how.stale) {
			health('warn', `stale: what you see is ${age} old`);
		} else if (trouble) {
			health('bad', `the server cannot report its state: ${trouble}`);
		} else if (how.waiting || !model.snapshot) {
			health('idle', 'connecting');
		} else {
			health('ok', 'live');
		}
	},
});

function health(tone, words) {
	const before = $('live').dataset.tone;
	attr($('live'), 'data-tone', tone);
	text($('live-text'), words);
	// The words change every second. Screen readers announce only a change of the tone.
	if (tone !== before && (tone === 'bad' || tone === 'warn')) {
		text($('announce'), words);
	}
}

function pause() {
	paused = !paused;
	attr($('pause'), 'aria-pressed', String(paused));
	text($('pause'), paused ? 'Continue' : 'Pause');
	if (!paused && latest) {
		model.take(latest);
		latest = undefined;
		show();
	}
	stream.watch();
}

function setTheme(theme) {
	document.documentElement.dataset.theme = theme;
	text($('theme'), theme === 'dark' ? 'Light' : 'Dark');
	attr($('theme'), 'aria-label', `Switch to the ${theme === 'dark' ? 'light' : 'dark'} theme`);
}

function otherTheme() {
	const theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
	try {
		localStorage.setItem('ballast-theme', theme);
	} catch {
		// Without storage, the choice lasts until the page is reloaded.
	}
	setTheme(theme);
}

const KEYS = {
	'/': () => $('search').focus(),
	j: () => table.step(1),
	k: () => table.step(-1),
	p: pause,
	t: otherTheme,
	'?': () => $('keys').showModal(),
	'!': () => view.set({ show: view.show === 'trouble' ? 'all' : 'trouble' }),
};

addEventListener('keydown', event => {
	const typing = event.target.closest('input, select, textarea');
	if (event.key === 'Escape' && event.target === $('search')) {
		$('search').value = '';
		$('search').blur();
		view.set({ q: '' });
	}
	if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && !document.querySelector('dialog[open]') && KEYS[event.key]) {
		event.preventDefault();
		KEYS[event.key]();
	}
});

$('search').addEventListener('input', () => view.set({ q: $('search').value.trim() }));
$('pause').addEventListener('click', pause);
$('theme').addEventListener('click', otherTheme);
$('help').addEventListener('click', () => $('keys').showModal());
setTheme(document.documentElement.dataset.theme);
hide($('nothing'), true);
const first = $('first'); // the state that the server put into the page
if (first) {
	model.take(JSON.parse(first.textContent));
	first.remove();
	show();
}
