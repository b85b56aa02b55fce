// The eviction plan: what would go, what stays, and why; for the watermarks, or for a room that somebody asks about.

import { Window, byId, el, keyed, mark, say, setTime, show } from "./dom.js";
import { bytes, counted, sentence, words } from "./format.js";
import { Failure, ask } from "./net.js";

const ROWS = 10;
const STAYS = {
  pinned: "somebody pinned it",
  leased: "somebody leases it",
  in_use: "a process has it open",
  use_unknown: "whether a process has it open cannot be told",
  fetching: "a job works on it",
  too_young: "it is younger than cache.min_age",
  not_staged: "another client fetched it",
  never: "cache.evict is never",
  not_needed: "its room is not needed",
};
const GOES = {
  requested: "somebody asked for it",
  expired: "it was not used for cache.expire_after",
  least_recently_used: "everything that stays was used later",
  low_value: "everything that stays is worth more",
  over_capacity: "the cache, or the disk that it is on, is above the high watermark",
  below_keep_free: "less than cache.keep_free is free",
};

let plan = null;
/** The room that is asked about; empty means the watermarks. */
let room = "";
let list;

export function setUpPlan(again) {
  list = new Window(byId("plan-more"), ROWS, draw);
  byId("plan-show").addEventListener("change", () => {
    list.reset();
    draw();
  });
  byId("plan-form").addEventListener("submit", (event) => {
    event.preventDefault();
    room = byId("plan-room").value.trim();
    say(byId("plan-wrong"), "");
    list.reset();
    again();
  });
  byId("plan-back").addEventListener("click", () => {
    room = "";
    byId("plan-room").value = "";
    say(byId("plan-wrong"), "");
    list.reset();
    again();
    byId("plan-room").focus();
  });
}

export async function askPlan() {
  try {
    const query = room === "" ? "" : `?free=${encodeURIComponent(room)}`;
    plan = { ...(await ask(`/v1/eviction-plan${query}`)), room };
  } catch (error) {
    if (room === "" || !(error instanceof Failure) || error.status !== 400) throw error;
    // What was typed is no size; the plan goes on with the watermarks.
    say(byId("plan-wrong"), `${sentence(error.message)} ${sentence(error.hint)}`);
    room = "";
    return askPlan();
  }
  draw();
}

/** What the tile at the top says: bytes that the watermarks ask for; `null` if that is not what is known. */
export function planInShort() {
  if (plan === null || plan.room !== "") return null;
  return { models: plan.evict.length, freed: plan.freed_bytes, short: plan.short_bytes };
}

function summary() {
  if (plan.evict.length === 0 && plan.short_bytes === 0) {
    return plan.room === "" ? "Nothing would go: the watermarks and cache.keep_free ask for no room." : "Nothing would go.";
  }
  const goes = plan.evict.length === 0
    ? "nothing can go"
    : `${counted(plan.evict.length, "model")} would go, and ${bytes(plan.freed_bytes)} become free`;
  const short = plan.short_bytes > 0 ? `; ${bytes(plan.short_bytes)} more are wanted and cannot be freed` : "";
  return `For ${plan.room === "" ? "the watermarks and cache.keep_free" : `room of ${plan.room}`}: ${goes}${short}.`;
}

/** The choices: everything, what goes, and each reason to stay that occurs. */
function choices(rows) {
  const kept = new Map();
  for (const one of rows.filter((one) => !one.goes)) {
    const sum = kept.get(one.reason) ?? { number: 0, bytes: 0 };
    kept.set(one.reason, { number: sum.number + 1, bytes: sum.bytes + one.bytes });
  }
  const word = ([reason, sum]) => ({ value: reason, text: `stays, ${words(reason)}: ${sum.number}, ${bytes(sum.bytes)}` });
  return [
    { value: "all", text: `everything: ${rows.length}` },
    { value: "goes", text: `would go: ${plan.evict.length}, ${bytes(plan.freed_bytes)}` },
    ...[...kept].sort((a, b) => b[1].bytes - a[1].bytes).map(word),
  ];
}

function draw() {
  if (plan === null) return;
  const goes = plan.evict.map((one, n) => ({ ...one, goes: true, place: n + 1 }));
  const rows = [...goes, ...plan.keep.map((one) => ({ ...one, goes: false })).sort((a, b) => b.bytes - a.bytes)];
  say(byId("plan-summary"), summary());
  show(byId("plan-back"), plan.room !== "");
  show(byId("plan-choice"), rows.length > 0);
  const select = byId("plan-show");
  const wanted = select.value || "all";
  keyed(select, choices(rows), (one) => one.value, (one) => ({ root: el("option", { value: one.value }) }), (drawn, one) => {
    say(drawn.root, one.text);
  });
  select.value = wanted;
  if (select.value === "") select.value = "all";
  const shown = rows.filter((one) => {
    return select.value === "all" || (select.value === "goes" ? one.goes : !one.goes && one.reason === select.value);
  });
  keyed(byId("plan-rows"), list.cut(shown, "models"), (one) => `${one.repo}@${one.commit}`, make, fill);
  show(byId("plan-table"), shown.length > 0);
}

function make() {
  const [decision, name, commit] = [el("span", { class: "state" }), el("span"), el("span", { class: "muted mono" })];
  const [size, used, why, word] = [el("span"), el("time"), el("span"), el("span", { class: "tag" })];
  const root = el(
    "tr",
    { role: "row" },
    el("td", { role: "cell", class: "narrow" }, decision),
    el("th", { role: "rowheader", scope: "row" }, name, commit),
    el("td", { role: "cell", class: "narrow right" }, size),
    el("td", { role: "cell", class: "narrow", "data-label": "last used" }, used),
    el("td", { role: "cell", class: "why" }, word, why),
  );
  return { root, decision, name, commit, size, used, why, word };
}

function fill(drawn, one) {
  say(drawn.decision, one.goes ? `goes ${one.place}.` : "stays");
  mark(drawn.decision, "data-look", one.goes ? "warn" : "still");
  say(drawn.name, one.repo);
  say(drawn.commit, one.commit.slice(0, 8));
  say(drawn.size, bytes(one.bytes));
  setTime(drawn.used, one.last_used_at);
  say(drawn.word, words(one.reason));
  say(drawn.why, (one.goes ? GOES : STAYS)[one.reason] ?? "");
}
