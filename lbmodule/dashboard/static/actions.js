// Changes to backends: a dialog asks for one, the server makes it, and a note offers to undo it.

import { $, attr, el, hide, own, text } from './dom.js';

const NOTE = 15_000; // ms for which a note is shown

const KINDS = {
	drain: { verb: 'Drain', text: n => `It gets no new requests. ${n === 0 ? 'None is in flight.' : `${n === 1 ? 'The one' : `The ${n}`} in flight may finish.`}`, done: 'is draining', change: { state: 'drain' } },
	maintenance: { verb: 'Take out', text: () => 'It gets no new requests and no health checks until it is made ready again.', done: 'is in maintenance', change: { state: 'maintenance' } },
	ready: { verb: 'Make ready', text: () => 'It gets requests again once it is usable. With slow_start, its share grows slowly.', done: 'is ready', change: { state: 'ready' } },
	weight: { verb: 'Set weight', text: () => 'Its share of the requests, relative to the weights of the others. 0 means no new requests.', done: 'has a new weight' },
};

// REVERTIBLE lists the fields that the server accepts null for.
const REVERTIBLE = ['state', 'weight', 'max_requests', 'backup', 'zone'];

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

	canRevert(field) {
		return REVERTIBLE.includes(field);
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
			this.note(failed ? `Not undone: ${failed}` : `The change of ${name} is undone.`, null, null, failed ? 'bad' : 'ok');
		});
	}

	// revert resets a field to the config.
	async revert(pool, name, field) {
		const failed = await this.send(pool, name, { [field]: null });
		this.note(failed ? `Not reverted: ${failed}` : `The ${field} of ${name} is that of the config again.`, null, null, failed ? 'bad' : 'ok');
	}

	// send requests a change. It returns the error, '' if the change was made.
	async send(pool, backend, change) {
		try {
			const answer = await fetch(own('change'), { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ pool, backend, change }) });
			if (answer.ok) {
				return '';
			}
			const { error } = await answer.json().catch(() => ({}));
			return error || `the server answered with status ${answer.status}`;
		} catch {
			return 'the server cannot be reached';
		}
	}

	// note shows what was done, for a limited time, with a button if there is an act to offer.
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
		// A modal dialog makes the rest of the page inert, so notes are shown inside it.
		(document.querySelector('dialog[open] .notes-here') ?? $('toasts')).append(node);
	}
}

// undo returns the change that restores the current value of a field: that of the edit in effect, or of the config.
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
