// The view: search, sorting and what is open. It is kept in the fragment of the URL, so that a link shows the same.

const DEFAULTS = { q: '', show: 'all', sort: 'status', pool: '', backend: '', range: '5m', fold: '', unfold: '', list: '', dense: '' };

export class View {
	constructor(changed) {
		this.changed = changed;
		this.read();
		addEventListener('hashchange', () => {
			this.read();
			this.changed();
		});
	}

	read() {
		const given = new URLSearchParams(location.hash.slice(1));
		for (const [name, fallback] of Object.entries(DEFAULTS)) {
			this[name] = given.get(name) ?? fallback;
		}
	}

	// set changes some values of the view.
	set(changes) {
		Object.assign(this, changes);
		const given = new URLSearchParams();
		for (const [name, fallback] of Object.entries(DEFAULTS)) {
			if (this[name] !== fallback) {
				given.set(name, this[name]);
			}
		}
		history.replaceState(null, '', given.size > 0 ? `#${given}` : location.pathname + location.search);
		this.changed();
	}

	// folded reports whether a pool is collapsed. byItself is the default.
	folded(pool, byItself) {
		return names(this.fold).has(pool) || byItself && !names(this.unfold).has(pool);
	}

	// foldAll collapses or expands these pools.
	foldAll(pools, folded) {
		this.set({ fold: folded ? pools.join(',') : '', unfold: folded ? '' : pools.join(',') });
	}

	setFolded(pool, folded) {
		const fold = names(this.fold);
		const unfold = names(this.unfold);
		(folded ? fold : unfold).add(pool);
		(folded ? unfold : fold).delete(pool);
		this.set({ fold: [...fold].join(','), unfold: [...unfold].join(',') });
	}

	// order splits `sort` into the column and the direction.
	get order() {
		return this.sort.startsWith('-') ? { by: this.sort.slice(1), descending: true } : { by: this.sort, descending: false };
	}
}

const names = list => new Set(list === '' ? [] : list.split(','));
