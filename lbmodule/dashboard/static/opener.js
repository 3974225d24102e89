// Opening the panel of a pool.

import { el } from './dom.js';

// opener is a button that opens the panel of a pool.
export const opener = pool => el('button', { type: 'button', class: 'quiet small', 'data-open': pool, 'aria-label': `History of ${pool}` }, 'History');

// opened returns the pool whose panel a click opens, undefined if there is none: a click on its button, or on its row beside other buttons.
export function opened(target) {
	const row = target.closest('tr.pool');
	return row && getSelection().isCollapsed && (target.closest('[data-open]') || !target.closest('button, a')) ? row.querySelector('[data-open]').dataset.open : undefined;
}
