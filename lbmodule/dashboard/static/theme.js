// This is not a module, because modules run after the first paint, and the theme must be set before it.
'use strict';
(() => {
	let theme = null;
	try {
		theme = localStorage.getItem('ballast-theme');
	} catch {
		// Without storage, the system's preference decides.
	}
	if (theme !== 'dark' && theme !== 'light') {
		theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
	}
	document.documentElement.dataset.theme = theme;
})();
