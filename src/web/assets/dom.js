// Elements made by hand. Text is set as text, never as markup: names and messages come from anywhere.

import { UNKNOWN, ago, known, moment, sentence } from "./format.js";

const ROWS = new WeakMap();
const TROUBLES = new WeakMap();

/** An element with attributes and children; strings become text. `null` and `undefined` are left out. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a picture. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (known(value)) node.setAttribute(name, value);
  }
  node.append(...children.filter(known));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets a text if it is another one, so that nothing is read out or drawn again without need. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (value === null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value === true ? "" : value);
  }
}

export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/** A point in time as it is read ("3 min ago"), with the exact one beside it. */
export function time(value) {
  const node = el("time");
  setTime(node, value);
  return node;
}

export function setTime(node, value) {
  mark(node, "datetime", known(value) ? value : null);
  mark(node, "title", known(value) ? moment(value) : null);
  say(node, known(value) ? ago(value) : UNKNOWN);
}

/** Lets the times on the page grow older. */
export function age() {
  for (const node of document.querySelectorAll("time[datetime]")) say(node, ago(node.dateTime));
}

/**
 * Makes the children of `parent` those of `items`, in their order: `make(item)` draws a new one as an object with
 * `root`, `fill(drawn, item)` brings it up to date. What stays keeps its element, its focus and what was opened.
 */
export function keyed(parent, items, key, make, fill) {
  const old = ROWS.get(parent) ?? new Map();
  const next = new Map();
  const focus = document.activeElement;
  let place = parent.firstElementChild;
  while (place && place.hasAttribute("data-fixed")) place = place.nextElementSibling;
  for (const item of items) {
    const name = key(item);
    if (next.has(name)) continue;
    const drawn = old.get(name) ?? make(item);
    old.delete(name);
    next.set(name, drawn);
    fill(drawn, item);
    if (drawn.root === place) place = place.nextElementSibling;
    else parent.insertBefore(drawn.root, place);
  }
  for (const drawn of old.values()) drawn.root.remove();
  ROWS.set(parent, next);
  // Whatever is moved loses the focus.
  if (focus !== document.activeElement && focus?.isConnected) focus.focus({ preventScroll: true });
}

/** A list of terms for `<dl>`: pairs of a name and a text or an element; unknown ones say so. */
export function terms(list, pairs) {
  const fill = (drawn, [name, value]) => {
    say(drawn.name, name);
    if (value instanceof Node) {
      if (drawn.value.firstChild !== value || drawn.value.childNodes.length > 1) drawn.value.replaceChildren(value);
    } else {
      say(drawn.value, known(value) ? String(value) : UNKNOWN);
    }
  };
  const make = () => {
    const [name, value] = [el("dt"), el("dd")];
    return { root: el("div", {}, name, value), name, value };
  };
  keyed(list, pairs.filter((pair) => pair !== null), ([name]) => name, make, fill);
}

/** A button that opens and closes `target`; `opened` is called before it is seen. */
export function opener(target, opened) {
  const button = el("button", { type: "button", class: "opener", "aria-expanded": "false" });
  button.addEventListener("click", () => {
    if (target.hidden) opened();
    target.hidden = !target.hidden;
    mark(button, "aria-expanded", String(!target.hidden));
  });
  return button;
}

/**
 * How many of a long list are drawn: `size` at first, as many more with each press of the button that `more` holds.
 * `again` draws anew.
 */
export class Window {
  constructor(more, size, again) {
    this.size = size;
    this.shown = size;
    this.note = el("span", { class: "muted" });
    this.button = el("button", { type: "button" }, "Show more");
    this.button.addEventListener("click", () => {
      this.shown += this.size;
      again();
    });
    more.append(this.note, this.button);
    this.more = more;
  }

  reset() {
    this.shown = this.size;
  }

  /** The part of `items` that is drawn. */
  cut(items, what) {
    const rest = items.length - this.shown;
    show(this.more, rest > 0);
    say(this.note, `${this.shown.toLocaleString("en")} of ${items.length.toLocaleString("en")} ${what} are shown.`);
    return items.slice(0, this.shown);
  }
}

/** Calls `act` once typing has paused. */
export function typed(input, act) {
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(act, 120);
  });
}

/**
 * Says below a section's heading what cannot be asked, and from when what is shown is. Each of the section's questions has
 * one of these; the first that fails is told.
 */
export function trouble(section) {
  const node = section.querySelector(".trouble");
  const all = TROUBLES.get(section) ?? new Map();
  TROUBLES.set(section, all);
  const mine = {};
  let good = null;
  return (failure) => {
    if (failure === null) {
      good = Date.now();
      all.delete(mine);
    } else {
      const since = good === null ? "Nothing is known yet." : `What is shown is from ${moment(good)}.`;
      const hint = failure.hint ? ` ${sentence(failure.hint)}` : "";
      all.set(mine, `This cannot be read now: ${sentence(failure.message)}${hint} ${since}`);
    }
    show(node, all.size > 0);
    say(node, [...all.values()][0] ?? "");
  };
}
