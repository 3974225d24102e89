// The theme must be known before anything is painted; modules come too late for that.
'use strict';
(() => {
	let theme = null;
	try {
		theme = localStorage.getItem('ballast-theme');
	} catch {
		// Without storage the system's choice rules.
	}
	if (theme !== 'dark' && theme !== 'light') {
		theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
	}
	document.documentElement.dataset.theme = theme;
})();
