// The models in the cache: how large, when last used, and who holds on to them.

import { Window, byId, el, keyed, mark, opener, say, setTime, show, terms, time, typed } from "./dom.js";
import { UNKNOWN, bytes, count, counted, known } from "./format.js";
import { ask } from "./net.js";

const ROWS = 50;
/** What each column is sorted by; sizes and times begin with the largest. */
const COLUMNS = {
  repo: (model) => model.repo.toLowerCase(),
  bytes: (model) => -model.bytes,
  used: (model) => (known(model.last_used_at) ? -Date.parse(model.last_used_at) : Infinity),
};

let models = null;
let by = { column: "used", reversed: false };
let list;

export function setUpModels() {
  list = new Window(byId("models-more"), ROWS, draw);
  const anew = () => {
    list.reset();
    draw();
  };
  typed(byId("models-filter"), anew);
  byId("models-hold").addEventListener("change", anew);
  for (const button of document.querySelectorAll("#models-table button[data-column]")) {
    button.addEventListener("click", () => {
      const column = button.dataset.column;
      by = { column, reversed: by.column === column && !by.reversed };
      anew();
    });
  }
}

export async function askModels() {
  models = (await ask("/v1/models")).models;
  draw();
}

/** What the tile at the top says; `null` while nothing is known. */
export function modelsInShort() {
  if (models === null) return null;
  return {
    number: models.length,
    pinned: models.filter((model) => model.pinned).length,
    busy: models.filter((model) => model.in_use === true).length,
  };
}

/** Who holds on to a model, as words. */
export function holds(model) {
  return [
    model.pinned ? "pinned" : null,
    model.leased ? "leased" : null,
    model.in_use === true ? "in use" : null,
    model.in_use === null ? "use unknown" : null,
  ].filter(known);
}

function chosen() {
  const text = byId("models-filter").value.trim().toLowerCase();
  const hold = byId("models-hold").value;
  const parts = (model) => [model.repo, model.commit, ...model.revisions, model.format, model.quantization];
  const has = (model) => parts(model).some((part) => known(part) && part.toLowerCase().includes(text));
  const groups = { free: (model) => !holds(model).some((word) => word !== "use unknown") };
  const fits = groups[hold] ?? ((model) => hold === "all" || holds(model).includes(hold));
  const found = models.filter((model) => fits(model) && (text === "" || has(model)));
  const value = COLUMNS[by.column];
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return a.repo < b.repo ? -1 : 1;
    return (x < y ? -1 : 1) * (by.reversed ? -1 : 1);
  };
  return found.sort(order);
}

function draw() {
  if (models === null) return;
  const found = chosen();
  keyed(byId("models-table"), list.cut(found, "models"), (model) => `${model.repo}@${model.commit}`, make, fill);
  show(byId("models-none"), found.length === 0);
  say(byId("models-none"), models.length === 0 ? "The cache holds no model yet." : "No model fits the filter.");
  const sum = found.reduce((sum, model) => sum + model.bytes, 0);
  // Revisions of one repo share files, so the sum is an upper bound.
  const distinct = new Set(found.map((model) => model.repo)).size === found.length;
  say(byId("models-count"), `${counted(found.length, "revision")}, ${distinct ? "" : "at most "}${bytes(sum)}.`);
  for (const head of document.querySelectorAll("#models-table th[data-sorts]")) {
    const here = head.dataset.sorts === by.column;
    // Names begin with A; sizes and times with the largest.
    const rises = (by.column === "repo") !== by.reversed;
    mark(head, "aria-sort", here ? (rises ? "ascending" : "descending") : null);
  }
}

function make(model) {
  const detail = el("tr", { role: "row", class: "detail", hidden: "" });
  const list = el("dl", { class: "terms" });
  detail.append(el("td", { role: "cell", colspan: "5" }, list));
  const [name, revision] = [opener(detail, () => fillDetail(drawn, drawn.model)), el("span", { class: "muted mono" })];
  const [size, used, kind] = [el("span", { class: "number" }), el("time"), el("span")];
  const hold = el("span", { class: "tags" });
  const row = el(
    "tr",
    { role: "row" },
    el("th", { role: "rowheader", scope: "row" }, name, revision),
    el("td", { role: "cell", class: "narrow right" }, size),
    el("td", { role: "cell", class: "narrow", "data-label": "last used" }, used),
    el("td", { role: "cell" }, hold),
    el("td", { role: "cell", class: "muted spare" }, kind),
  );
  const root = el("tbody", { role: "rowgroup" }, row, detail);
  const drawn = { root, model, detail, list, name, revision, size, used, hold, kind };
  return drawn;
}

function fill(drawn, model) {
  drawn.model = model;
  say(drawn.name, model.repo);
  say(drawn.revision, [...model.revisions, model.commit.slice(0, 8)].join(" "));
  say(drawn.size, bytes(model.bytes));
  setTime(drawn.used, model.last_used_at);
  say(drawn.kind, [model.format, model.quantization].filter(known).join(" "));
  const tag = () => {
    const root = el("span", { class: "tag" });
    return { root };
  };
  keyed(drawn.hold, holds(model), (word) => word, tag, (one, word) => say(one.root, word));
  if (!drawn.detail.hidden) fillDetail(drawn, model);
}

function fillDetail(drawn, model) {
  terms(drawn.list, [
    ["Commit", model.commit],
    ["Came", model.origin === "staged" ? "staged by larder" : "fetched by another client"],
    ["Since", time(model.added_at)],
    ["Files", count(model.files)],
    ["Read and found right", known(model.verified_at) ? time(model.verified_at) : "not yet"],
    model.leases.length > 0 ? ["Leased to", leases(model.leases)] : null,
    ["In use", { true: "yes", false: "no" }[String(model.in_use)] ?? UNKNOWN],
    ["Folder", model.path],
  ]);
}

function leases(all) {
  const list = el("span");
  all.forEach((lease, n) => list.append(n > 0 ? ", " : "", `${lease.holder} until `, time(lease.until)));
  return list;
}
