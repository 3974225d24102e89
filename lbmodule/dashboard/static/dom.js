// Functions that make and change nodes. They set strings as text, never as markup.

export const $ = id => document.getElementById(id);

// own is the URL of a file beside the page, without the user and password that the page's URL may contain: fetch refuses those.
export const own = file => new URL(file, location.origin + location.pathname);

// el makes an HTML element. Attributes that are null or false are left out.
export function el(tag, attributes, ...children) {
	return fill(document.createElement(tag), attributes, children);
}

// svg makes an SVG element.
export function svg(tag, attributes, ...children) {
	return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(node, attributes, children) {
	for (const [name, value] of Object.entries(attributes ?? {})) {
		attr(node, name, value);
	}
	node.append(...children.filter(child => child !== null && child !== undefined));
	return node;
}

// The setters below change the document only if the value differs.

export function attr(node, name, value) {
	if (value === null || value === undefined || value === false) {
		if (node.hasAttribute(name)) {
			node.removeAttribute(name);
		}
		return;
	}
	const string = value === true ? '' : String(value);
	if (node.getAttribute(name) !== string) {
		node.setAttribute(name, string);
	}
}

export function text(node, value) {
	const { firstChild: first, lastChild: last } = node;
	if (first === null || first !== last || first.nodeType !== Node.TEXT_NODE) {
		node.textContent = value;
	} else if (first.data !== value) {
		first.data = value; // cheaper than a new node
	}
}

// figure writes a number; zero and unknown values get a softer colour.
export function figure(node, value) {
	text(node, value);
	attr(node, 'data-nil', /^(0( %| B)?|–)$/.test(value));
}

export function width(node, share) {
	const value = `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`;
	if (node.style.width !== value) {
		node.style.width = value;
	}
}

export function hide(node, hidden) {
	if (node.hidden !== hidden) {
		node.hidden = hidden;
	}
}

// arrange makes nodes the children of parent, in this order, and does not touch those that are in place. Children before `from` stay.
export function arrange(parent, nodes, from = 0) {
	const keep = new Set(nodes);
	for (const child of [...parent.children].slice(from)) {
		if (!keep.has(child)) {
			child.remove();
		}
	}
	let at = parent.children[from] ?? null;
	for (const node of nodes) {
		if (node === at) {
			at = at.nextElementSibling;
		} else {
			parent.insertBefore(node, at);
		}
	}
}

// Keyed has one child for each item: it makes those of new keys, updates all, and removes the others.
export class Keyed {
	constructor(parent, make) {
		this.parent = parent;
		this.make = make; // (item) -> { node, update(item) }
		this.children = new Map();
	}

	show(items, key) {
		const next = new Map();
		for (const item of items) {
			const k = key(item);
			const child = this.children.get(k) ?? this.make(item);
			child.update(item);
			next.set(k, child);
		}
		this.children = next;
		arrange(this.parent, [...next.values()].map(child => child.node));
	}
}
