// The stream of messages from the server. It reconnects by itself, whatever ended it, and reports its health.

import { own } from './dom.js';

const STALE = 3500; // ms without a message after which the page is called stale
const SILENT = 12_000; // ms without a message after which the stream reconnects
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
const HIDDEN = 15_000; // ms for which the page is hidden before it closes the connection

export class Stream {
	// handlers is { hello, state, event, trouble, health }: functions for the messages, and for changes of the stream's health.
	constructor(handlers) {
		this.handlers = handlers;
		this.pause = FIRST_PAUSE;
		this.heard = undefined; // time of the latest message
		this.retryAt = undefined;
		this.problem = '';
		document.addEventListener('visibilitychange', () => this.visibilityChanged());
		addEventListener('online', () => this.open());
		setInterval(() => this.watch(), 500);
		this.open();
	}

	open() {
		this.close();
		const source = new EventSource('stream');
		this.source = source;
		this.opened = performance.now();
		for (const name of ['hello', 'state', 'event', 'trouble']) {
			source.addEventListener(name, message => {
				this.heard = performance.now();
				this.pause = FIRST_PAUSE;
				this.problem = '';
				this.handlers[name](JSON.parse(message.data), message);
				this.watch();
			});
		}
		// An EventSource reconnects after some errors and not after others. This stream always does, with growing pauses.
		source.addEventListener('error', () => {
			if (this.source === source) {
				this.close();
				this.retryAt = performance.now() + this.pause;
				this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
				this.findOut();
			}
		});
		this.watch();
	}

	close() {
		this.source?.close();
		this.source = undefined;
		this.retryAt = undefined;
	}

	// findOut asks the server why there is no stream.
	async findOut() {
		try {
			const answer = await fetch(own('state'), { method: 'HEAD', cache: 'no-store' });
			const why = { 401: 'login needed: load the page again', 403: 'no access', 404: 'there is no dashboard here any more', 503: 'too many dashboards are open' };
			this.problem = answer.ok ? '' : why[answer.status] ?? `the server answered with status ${answer.status}`;
		} catch {
			this.problem = 'the server cannot be reached';
		}
		this.watch();
	}

	// watch reports the health of the stream, and reconnects if needed.
	watch() {
		const now = performance.now();
		const age = now - this.heard;
		if (this.hidden) {
			return;
		}
		if (this.source) {
			const silence = now - Math.max(this.heard ?? 0, this.opened);
			if (silence > SILENT) {
				this.open();
				return;
			}
			this.handlers.health(age > STALE ? { stale: true, age } : { waiting: this.source.readyState !== EventSource.OPEN });
			return;
		}
		if (now >= this.retryAt) {
			this.open();
			return;
		}
		this.handlers.health({ lost: true, age, retry: this.retryAt - now, problem: this.problem });
	}

	// visibilityChanged closes the connection of a page that stays hidden: over HTTP/1.1, browsers open at most six to a host.
	visibilityChanged() {
		clearTimeout(this.hiding);
		if (document.hidden) {
			this.hiding = setTimeout(() => {
				this.hidden = true;
				this.close();
			}, HIDDEN);
		} else if (this.hidden) {
			this.hidden = false;
			this.open();
		}
	}
}
