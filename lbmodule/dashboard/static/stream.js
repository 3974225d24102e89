// The stream of news. It comes back by itself, whatever ended it, and says how it is.

import { own } from './dom.js';

const STALE = 3500; // ms without news, from which on what is shown is called stale
const SILENT = 12_000; // and from which on the connection is given up
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
const HIDDEN = 15_000; // a page that nobody sees gives its connection back after so long

export class Stream {
	// hear is { hello, state, event, trouble, health }: functions of what was heard.
	constructor(hear) {
		this.hear = hear;
		this.pause = FIRST_PAUSE;
		this.heard = undefined; // when the latest news came
		this.retryAt = undefined;
		this.problem = '';
		document.addEventListener('visibilitychange', () => this.seen());
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
				this.hear[name](JSON.parse(message.data), message);
				this.watch();
			});
		}
		// Browsers try again after some errors and not after others; here it is always done, and with pauses that grow.
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

	// findOut asks why there is no stream.
	async findOut() {
		try {
			const answer = await fetch(own('state'), { method: 'HEAD', cache: 'no-store' });
			const why = { 401: 'login needed: load the page again', 403: 'no access', 404: 'there is no dashboard here any more', 503: 'too many dashboards are open' };
			this.problem = answer.ok ? '' : why[answer.status] ?? `the server answers ${answer.status}`;
		} catch {
			this.problem = 'the server cannot be reached';
		}
		this.watch();
	}

	// watch tells how the stream is, and mends it.
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
			this.hear.health(age > STALE ? { stale: true, age } : { waiting: this.source.readyState !== EventSource.OPEN });
			return;
		}
		if (now >= this.retryAt) {
			this.open();
			return;
		}
		this.hear.health({ lost: true, age, retry: this.retryAt - now, problem: this.problem });
	}

	// seen lets go of the connection when nobody has looked for a while: over HTTP/1.1 browsers have six for a site.
	seen() {
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
