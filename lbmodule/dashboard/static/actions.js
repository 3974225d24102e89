// Changes to backends: asked for in a dialog, made by the server, and taken back from a note.

import { $, attr, el, hide, own, text } from './dom.js';

const NOTE = 15_000; // ms for which a note stays, with its chance to undo

const KINDS = {
	drain: { verb: 'Drain', text: n => `Gets no new requests. ${n === 1 ? 'The one in flight ends' : `The ${n} in flight end`} as they would.`, done: 'is draining', change: { state: 'drain' } },
	maintenance: { verb: 'Take out', text: () => 'Gets no new requests and is not checked, until it is ready again.', done: 'is in maintenance', change: { state: 'maintenance' } },
	ready: { verb: 'Make ready', text: () => 'Gets requests again when it is fit for them; its share grows slowly.', done: 'is ready', change: { state: 'ready' } },
	weight: { verb: 'Set weight', text: () => 'Its share of the requests, beside those of the others. 0 means no new requests.', done: 'has another weight' },
};

const TAKEN_BACK = ['state', 'weight', 'max_requests', 'backup', 'zone'];

export class Actions {
	constructor() {
		this.allowed = false;
		this.user = '';
		$('ask-no').addEventListener('click', () => $('ask').close());
		$('ask-form').addEventListener('submit', event => {
			event.preventDefault();
			this.confirm();
		});
	}

	takesBack(field) {
		return TAKEN_BACK.includes(field);
	}

	// ask opens the dialog for one of KINDS.
	ask(kind, backend) {
		this.asked = { kind, backend };
		const { verb, text: explain } = KINDS[kind];
		text($('ask-title'), `${verb}: ${backend.name}`);
		text($('ask-text'), explain(backend.data.in_flight));
		text($('ask-yes'), verb);
		text($('ask-error'), '');
		hide($('ask-weight'), kind !== 'weight');
		attr($('weight'), 'required', kind === 'weight');
		$('weight').value = backend.data.weight;
		$('reason').value = '';
		$('for').value = '';
		$('ask-yes').disabled = false;
		$('ask').showModal();
		(kind === 'weight' ? $('weight') : $('reason')).focus();
	}

	async confirm() {
		const { kind, backend } = this.asked;
		const change = kind === 'weight' ? { weight: $('weight').valueAsNumber } : { ...KINDS[kind].change };
		for (const field of ['reason', 'for']) {
			if ($(field).value.trim() !== '') {
				change[field] = $(field).value.trim();
			}
		}
		const back = undo(backend, kind === 'weight' ? 'weight' : 'state');
		const [pool, name] = [backend.pool.name, backend.name];
		$('ask-yes').disabled = true;
		const problem = await this.send(pool, name, change);
		$('ask-yes').disabled = false;
		if (problem) {
			text($('ask-error'), problem);
			return;
		}
		$('ask').close();
		this.note(`${name} ${KINDS[kind].done}.`, 'Undo', async () => {
			const failed = await this.send(pool, name, back);
			this.note(failed ? `Not undone: ${failed}` : `${name} is as it was.`, null, null, failed ? 'bad' : 'ok');
		});
	}

	// takeBack lets the config rule again.
	async takeBack(pool, name, field) {
		const failed = await this.send(pool, name, { [field]: null });
		this.note(failed ? `Not taken back: ${failed}` : `The config rules the ${field} of ${name} again.`, null, null, failed ? 'bad' : 'ok');
	}

	// send asks for a change and returns what is wrong, '' if it was made.
	async send(pool, backend, change) {
		try {
			const answer = await fetch(own('change'), { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ pool, backend, change }) });
			if (answer.ok) {
				return '';
			}
			const { error } = await answer.json().catch(() => ({}));
			return error || `the server answers ${answer.status}`;
		} catch {
			return 'the server cannot be reached';
		}
	}

	// note tells what was done, and offers something to do about it for a while.
	note(words, label, act, tone = 'ok') {
		const node = el('div', { class: 'toast', 'data-tone': tone }, el('span', { class: 'dot', 'aria-hidden': 'true' }), el('span', null, words));
		const leave = () => node.remove();
		let timer = setTimeout(leave, NOTE);
		node.addEventListener('pointerenter', () => clearTimeout(timer));
		node.addEventListener('pointerleave', () => { timer = setTimeout(leave, NOTE); });
		if (label) {
			const button = el('button', { type: 'button', class: 'small' }, label);
			button.addEventListener('click', () => {
				leave();
				act();
			});
			node.append(button);
		}
		const close = el('button', { type: 'button', class: 'quiet square', 'aria-label': 'Close this note' }, '×');
		close.addEventListener('click', leave);
		node.append(close);
		// A dialog covers the page and makes it deaf: notes are in front of it.
		(document.querySelector('dialog[open] .notes-here') ?? $('toasts')).append(node);
	}
}

// undo is the change that brings a field back to what it is now: the edit that rules it, or the config.
function undo(backend, field) {
	const edit = backend.data.edits?.find(e => e.field === field);
	if (!edit) {
		return { [field]: null };
	}
	const back = { [field]: edit.value };
	if (edit.reason) {
		back.reason = edit.reason;
	}
	if (edit.time_left) {
		back.for = edit.time_left;
	}
	return back;
}
