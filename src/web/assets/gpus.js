// The GPUs: memory now and over the last hours, how busy and hot they are, who is on them, and what is wrong.

import { Chart, inWords } from "./chart.js";
import { byId, el, keyed, mark, say, show } from "./dom.js";
import { UNKNOWN, bytes, bytesOf, counted, known, percent, sentence, words } from "./format.js";
import { ask } from "./net.js";

const HOUR = 3_600_000;
/** The times that a picture may span, in hours. */
const SPANS = [1, 3, 6, 12];
const PROCESSES = 3;

let gpus = null;
let history = { minutes: [], gpus: [] };

export function setUpGpus() {
  byId("gpus-span").addEventListener("change", draw);
}

export async function askHistory() {
  history = await ask("/v1/host/vram");
  draw();
}

/** What `/v1/host` says of them. */
export function setGpus(said) {
  gpus = said;
  draw();
}

/** What the tile at the top says; `null` while nothing is known. */
export function gpusInShort() {
  if (gpus === null) return null;
  const there = gpus.devices.filter((gpu) => !gpu.lost);
  const all = (value) => (there.length > 0 && there.every((gpu) => known(value(gpu))) && !gpus.stale
    ? there.reduce((sum, gpu) => sum + value(gpu), 0)
    : null);
  return {
    number: gpus.devices.length,
    lost: gpus.devices.length - there.length,
    used: all((gpu) => gpu.memory.used),
    total: all((gpu) => gpu.memory.total),
    none: gpus.why_none,
    stale: gpus.stale,
  };
}

function draw() {
  if (gpus === null) return;
  const why = gpus.why_none;
  const late = gpus.stale ? "The GPUs have not been read for a while: what changes is unknown." : "";
  say(byId("gpus-note"), why ? `${sentence(why.what)} ${sentence(why.hint)}` : late);
  // A host without a GPU is nothing to worry about.
  mark(byId("gpus-note"), "data-calm", ["no_library", "no_device"].includes(why?.word));
  show(byId("gpus-none"), false);
  show(byId("gpus-note"), why !== null || gpus.stale);
  show(byId("gpus-span").parentElement, gpus.devices.length > 0);
  keyed(byId("gpus-cards"), gpus.devices, (gpu) => gpu.uuid ?? `index ${gpu.index}`, make, fill);
}

function make(gpu) {
  const title = el("h3", { id: `gpu-${gpu.index}-title` });
  const state = el("span", { class: "state" });
  const chart = new Chart();
  const [used, past, facts, who] = ["used", "muted note", "facts", "note"].map((name) => el("p", { class: name }));
  const wrong = el("ul", { class: "wrong" });
  const uuid = el("p", { class: "muted mono clip" });
  const head = el("div", { class: "head" }, title, state);
  const root = el("article", { class: "card", "aria-labelledby": title.id }, head, uuid, used, chart.root, past, facts, who, wrong);
  return { root, title, state, uuid, used, chart, past, facts, who, wrong };
}

function fill(drawn, gpu) {
  const { memory } = gpu;
  const name = `GPU ${gpu.index}`;
  say(drawn.title, `${gpu.index}: ${gpu.name ?? "a GPU of an unknown name"}`);
  say(drawn.uuid, gpu.uuid ?? "UUID unknown");
  const [word, look] = verdict(gpu);
  say(drawn.state, word);
  mark(drawn.state, "data-look", look);
  const now = gpu.lost || gpus.stale ? null : memory.used;
  const share = percent(now, memory.total);
  const full = share === null ? "" : ` (${share} %)`;
  say(drawn.used, known(now) ? `${bytesOf(now, memory.total)} used${full}` : `use unknown, of ${bytes(memory.total)}`);
  const [from, to] = range();
  const points = track(gpu);
  drawn.chart.draw(points, memory.total, from, to, `Memory of ${name}`);
  const past = inWords(points.filter((point) => point.at + 60_000 > from), from);
  say(drawn.past, past.charAt(0).toUpperCase() + past.slice(1));
  say(drawn.facts, gpus.stale || gpu.lost ? "" : facts(gpu));
  say(drawn.who, gpus.stale || gpu.lost ? "" : processes(gpu));
  const line = () => ({ root: el("li") });
  keyed(drawn.wrong, gpu.health.reasons, (one) => one.what, line, (line, one) => {
    say(line.root, `${sentence(one.what)} ${sentence(one.hint)}`);
  });
}

function verdict(gpu) {
  if (gpu.lost) return ["lost", "bad"];
  if (gpu.reset_required) return ["needs a reset", "bad"];
  if (gpus.stale) return ["not read", "warn"];
  return { healthy: ["healthy", "good"], degraded: ["degraded", "bad"] }[gpu.health.state] ?? [UNKNOWN, "warn"];
}

function facts(gpu) {
  const slow = (gpu.throttle_reasons ?? []).filter((reason) => reason !== "idle");
  const share = (value) => (known(value) ? `${Math.round(value * 100)} %` : UNKNOWN);
  const power = known(gpu.power_limit_w) ? ` of ${Math.round(gpu.power_limit_w)} W` : "";
  return [
    `busy ${share(gpu.utilization.gpu)}`,
    known(gpu.temperature_c) ? `${gpu.temperature_c} °C` : `temperature ${UNKNOWN}`,
    known(gpu.power_w) ? `${Math.round(gpu.power_w)} W${power}` : `power ${UNKNOWN}`,
    slow.length > 0 ? `slowed by ${slow.map(limit).join(", ")}` : null,
    gpu.memory.kind === "unified" ? "memory shared with the host" : null,
    gpu.mig?.enabled ? `in ${counted(gpu.mig.instances.length, "part")}` : null,
  ].filter(known).join(" · ");
}

/** What lowers the clocks, with NVML's short forms written out. */
function limit(reason) {
  return words(reason).replace(/^sw /, "software ").replace(/^hw /, "hardware ");
}

function processes(gpu) {
  if (!known(gpu.processes)) return "Who uses it is unknown.";
  if (gpu.processes.length === 0) return "Nobody uses it.";
  const one = (process) => {
    const name = process.name ? process.name.split("/").pop() : "a process";
    return `${name} (${process.pid}) ${bytes(process.used_memory)}`;
  };
  const rest = gpu.processes.length + gpu.processes_omitted - PROCESSES;
  return gpu.processes.slice(0, PROCESSES).map(one).join(", ") + (rest > 0 ? `, and ${rest} more` : "");
}

/** What was used, minute by minute. */
function track(gpu) {
  const found = history.gpus.find((one) => (gpu.uuid === null ? one.index === gpu.index : one.uuid === gpu.uuid));
  const times = history.minutes;
  return found ? found.used_bytes.map((used, n) => ({ at: Date.parse(times[n]), used })) : [];
}

/** From when to when: the span that was chosen, or the shortest that holds all that is known. */
function range() {
  const to = Math.max(Date.now(), Date.parse(history.minutes[history.minutes.length - 1] ?? 0));
  const first = Date.parse(history.minutes[0] ?? new Date(to).toISOString());
  const wanted = Number(byId("gpus-span").value);
  const hours = wanted || SPANS.find((hours) => to - first <= hours * HOUR) || SPANS[SPANS.length - 1];
  return [to - hours * HOUR, to];
}
