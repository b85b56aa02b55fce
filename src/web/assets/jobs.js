// The jobs: what runs, how far it is, what waits and why, what has ended.

import { Window, age, byId, el, keyed, mark, opener, say, setTime, show, terms, time, typed } from "./dom.js";
import { bytes, bytesOf, count, counted, known, percent, rate, span, words } from "./format.js";
import { Failure, ask } from "./net.js";

const RUNNING = ["planning", "fetching", "verifying", "running"];
const WAITING = ["queued", "waiting"];
const GOOD = ["ready", "done"];
/** Most jobs of the whole list; the API gives no more. */
const ALL = 1_000;
/** Jobs of one state that are asked for every time, the newest ones, and those that are looked up one by one. */
const OF_STATE = 100;
const NEWEST = 25;
const LOOKED_UP = 20;
/** A speed is told over so many milliseconds, and a time that is left once it has been watched for so long. */
const OVER = 10_000;
const WATCHED = 4_000;
const ROWS = 50;

const jobs = new Map();
/** Of each running job: when it had how many bytes. */
const tracks = new Map();
let isCut = false;
let areKnown = false;
let ownHost = null;
let list;

/** Jobs of a fleet run elsewhere, too; those say where. */
export function setOwnHost(name) {
  ownHost = name;
}

export function setUpJobs() {
  list = new Window(byId("jobs-more"), ROWS, draw);
  const anew = () => {
    list.reset();
    draw();
  };
  typed(byId("jobs-filter"), anew);
  byId("jobs-state").addEventListener("change", anew);
}

/** Asks for the whole list: what is not in it is forgotten. */
export async function askAllJobs() {
  const before = [...jobs.values()];
  const { jobs: all } = await ask(`/v1/jobs?limit=${ALL}`);
  const listed = new Set(all.map((job) => job.id));
  isCut = all.length >= ALL;
  for (const job of before) if (!listed.has(job.id) && !(isCut && isRunning(job))) forget(job.id);
  all.forEach(learn);
  draw();
}

/** Asks for what moves: the running jobs, the newest ones, and those that ran a moment ago. True if one has ended. */
export async function askMovingJobs() {
  // One question first, so that a larder that is away is not asked five.
  const newest = await ask(`/v1/jobs?limit=${NEWEST}`);
  const paths = RUNNING.map((state) => `/v1/jobs?state=${state}&limit=${OF_STATE}`);
  const answers = [newest, ...(await Promise.all(paths.map(ask)))];
  const ran = [...jobs.values()].filter(isRunning).map((job) => job.id);
  const seen = new Set();
  for (const job of answers.flatMap((answer) => answer.jobs)) {
    seen.add(job.id);
    learn(job);
  }
  const missing = ran.filter((id) => !seen.has(id)).slice(0, LOOKED_UP);
  await Promise.all(missing.map(lookUp));
  areKnown = true;
  draw();
  return ran.some((id) => !jobs.has(id) || isEnded(jobs.get(id)));
}

async function lookUp(id) {
  try {
    learn(await ask(`/v1/jobs/${id}`));
  } catch (error) {
    if (!(error instanceof Failure) || error.status !== 404) throw error;
    forget(id);
  }
}

function learn(job) {
  jobs.set(job.id, job);
  if (!isRunning(job)) {
    tracks.delete(job.id);
    return;
  }
  const now = Date.now();
  const moved = job.kind === "download" ? job.bytes_fetched : job.bytes_done;
  const track = (tracks.get(job.id) ?? []).filter((point) => now - point.at <= OVER && point.bytes <= moved);
  track.push({ at: now, bytes: moved });
  tracks.set(job.id, track);
}

function forget(id) {
  jobs.delete(id);
  tracks.delete(id);
}

function isRunning(job) {
  return RUNNING.includes(job.state);
}

function isEnded(job) {
  return !isRunning(job) && !WAITING.includes(job.state);
}

/** Bytes per second of a running job; `null` if it has not been watched for long enough. */
function speed(job) {
  const track = tracks.get(job.id);
  if (!track || job.state === "planning") return null;
  const [first, last] = [track[0], track[track.length - 1]];
  return last.at - first.at >= WATCHED ? ((last.bytes - first.bytes) * 1_000) / (last.at - first.at) : null;
}

/** What the tiles at the top say; `null` while nothing is known. */
export function jobsInShort() {
  if (!areKnown) return null;
  const all = [...jobs.values()];
  const number = (fits) => all.filter(fits).length;
  const downloads = all.filter((job) => job.kind === "download" && isRunning(job));
  const speeds = downloads.map(speed).filter(known);
  return {
    running: number(isRunning),
    queued: number((job) => job.state === "queued"),
    waiting: number((job) => job.state === "waiting"),
    failed: number((job) => job.state === "failed"),
    downloads: downloads.length,
    speed: speeds.length > 0 ? speeds.reduce((sum, one) => sum + one, 0) : null,
    isCut,
  };
}

function chosen() {
  const text = byId("jobs-filter").value.trim().toLowerCase();
  const wanted = byId("jobs-state").value;
  const groups = {
    open: (job) => !isEnded(job),
    running: isRunning,
    waiting: (job) => WAITING.includes(job.state),
    failed: (job) => job.state === "failed",
    ended: isEnded,
  };
  const fits = groups[wanted] ?? (() => true);
  const has = (job) => [job.id, job.kind, job.state, job.repo, job.reason, job.message, ...job.requested_by]
    .some((part) => known(part) && part.toLowerCase().includes(text));
  return [...jobs.values()].filter((job) => fits(job) && (text === "" || has(job))).sort(inOrder);
}

/** Running ones first, then those that wait in the order in which they may run, then the ended ones, newest first. */
function inOrder(a, b) {
  const group = (job) => (isRunning(job) ? 0 : WAITING.includes(job.state) ? 1 : 2);
  const late = (job) => Date.parse(job.finished_at ?? job.started_at ?? job.created_at);
  if (group(a) !== group(b)) return group(a) - group(b);
  if (group(a) === 2) return late(b) - late(a);
  if (group(a) === 1 && a.priority !== b.priority) return b.priority - a.priority;
  return Date.parse(a.started_at ?? a.created_at) - Date.parse(b.started_at ?? b.created_at);
}

function draw() {
  const found = chosen();
  keyed(byId("jobs-table"), list.cut(found, "jobs"), (job) => job.id, make, fill);
  const none = jobs.size === 0 ? "No job is known: nothing was asked for lately." : "No job fits the filter.";
  show(byId("jobs-none"), found.length === 0);
  say(byId("jobs-none"), none);
  const cut = isCut ? ` The newest ${count(ALL)} are known here; larder jobs knows all.` : "";
  say(byId("jobs-count"), `${counted(found.length, "job")}.${cut}`);
  age();
}

function make(job) {
  const detail = el("tr", { role: "row", class: "detail", hidden: "" });
  const list = el("dl", { class: "terms" });
  const files = el("ul", { class: "files" });
  detail.append(el("td", { role: "cell", colspan: "4" }, list, files));
  const state = el("span", { class: "state" });
  const name = opener(detail, () => fillDetail(drawn, drawn.job));
  const kind = el("span", { class: "muted" });
  const bar = el("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, el("i"));
  const note = el("p", { class: "note" });
  const when = el("span", { class: "muted" });
  const row = el(
    "tr",
    { role: "row" },
    el("td", { role: "cell", class: "narrow" }, state),
    el("th", { role: "rowheader", scope: "row" }, name, kind),
    el("td", { role: "cell", class: "wide" }, bar, note),
    el("td", { role: "cell", class: "narrow when" }, when),
  );
  const root = el("tbody", { role: "rowgroup", "data-id": job.id }, row, detail);
  const drawn = { root, job, detail, list, files, state, name, kind, bar, note, when };
  return drawn;
}

function fill(drawn, job) {
  drawn.job = job;
  mark(drawn.root, "data-state", job.state);
  say(drawn.state, job.state);
  mark(drawn.state, "data-look", look(job));
  say(drawn.name, title(job));
  const elsewhere = ownHost !== null && job.hosts.length > 0 && !job.hosts.includes(ownHost);
  say(drawn.kind, elsewhere ? `${job.kind} for ${job.hosts.join(", ")}` : job.kind);
  const share = percent(job.bytes_done, job.bytes_total);
  const moves = isRunning(job) && job.state !== "planning";
  show(drawn.bar, moves);
  if (moves) {
    mark(drawn.bar, "aria-label", `Progress of ${title(job)}`);
    mark(drawn.bar, "aria-valuenow", share);
    mark(drawn.bar, "data-unknown", share === null);
    drawn.bar.firstChild.style.width = `${share ?? 0}%`;
  }
  say(drawn.note, note(job, share));
  drawWhen(drawn.when, job);
  if (!drawn.detail.hidden) fillDetail(drawn, job);
}

function look(job) {
  if (isRunning(job)) return "busy";
  if (GOOD.includes(job.state)) return "good";
  return { failed: "bad", waiting: "warn" }[job.state] ?? "still";
}

function title(job) {
  if (job.repo !== null) return job.revision === null || job.revision === "main" ? job.repo : `${job.repo}@${job.revision}`;
  return { evict: "make room", verify: "the whole cache", profile: "this host" }[job.kind] ?? job.kind;
}

function note(job, share) {
  if (job.state === "planning") return "asks what there is to fetch";
  if (isRunning(job)) {
    const parts = [bytesOf(job.bytes_done, job.bytes_total)];
    if (share !== null) parts.push(`${share} %`);
    const perSecond = speed(job);
    if (perSecond !== null) parts.push(perSecond > 0 ? rate(perSecond) : "nothing comes");
    if (perSecond > 0 && known(job.bytes_total)) {
      parts.push(`${span((job.bytes_total - job.bytes_done) / perSecond)} left`);
    }
    return parts.join(" · ");
  }
  const why = job.reason === null ? null : words(job.reason);
  if (job.state === "waiting") return [why, job.message].filter(known).join(": ");
  if (job.state === "failed") return [why, job.message].filter(known).join(": ");
  if (job.state === "queued") return job.priority === 0 ? "" : `priority ${job.priority}`;
  if (job.state === "cancelled") return "";
  const came = job.kind === "download" && job.bytes_fetched < job.bytes_done ? `, ${bytes(job.bytes_fetched)} fetched` : "";
  const did = { evict: " freed", verify: " read" }[job.kind] ?? "";
  return known(job.bytes_total) ? `${bytes(job.bytes_done)}${did}${came}` : "";
}

function drawWhen(node, job) {
  const [word, at] = isEnded(job)
    ? ["", job.finished_at]
    : isRunning(job)
      ? ["began ", job.started_at ?? job.created_at]
      : job.state === "waiting" && known(job.until)
        ? [Date.parse(job.until) > Date.now() ? "again " : "due ", job.until]
        : ["asked ", job.created_at];
  if (!node.lastElementChild) node.append("", time(at));
  if (node.firstChild.textContent !== word) node.firstChild.textContent = word;
  setTime(node.lastElementChild, at);
}

function fillDetail(drawn, job) {
  const took = known(job.started_at) && known(job.finished_at)
    ? span((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)
    : null;
  const files = known(job.files_total) ? `${count(job.files_done)} of ${count(job.files_total)}` : null;
  const text = (name, value) => (known(value) && value !== "" ? [name, value] : null);
  terms(drawn.list, [
    ["Job", job.id],
    text("Reason", job.reason === null ? null : words(job.reason)),
    text("Message", job.message),
    text("Asked for by", job.requested_by.join(", ")),
    ["Asked for", time(job.created_at)],
    known(job.started_at) ? ["Begun", time(job.started_at)] : null,
    text("Took", took),
    ["Attempts", count(job.attempts)],
    text("Hosts", job.hosts.join(", ")),
    text("Commit", job.commit),
    text("Files", files),
    job.kind === "download" ? ["Over the network", bytes(job.bytes_fetched)] : null,
    text("Staged instead", job.chosen?.is_fallback ? `${job.chosen.repo}: ${job.chosen.why}` : null),
    text("Folder", job.path),
  ]);
  const lines = [
    ...job.active.map((file) => ({ name: file.path, what: bytesOf(file.bytes_done, file.bytes_total) })),
    ...(job.evicted ?? []).map((gone) => ({ name: gone.repo, what: bytes(gone.bytes) })),
  ];
  const line = () => {
    const [name, what] = [el("span"), el("span", { class: "muted" })];
    return { root: el("li", {}, name, " ", what), name, what };
  };
  keyed(drawn.files, lines, (one) => one.name, line, (drawn, one) => {
    say(drawn.name, one.name);
    say(drawn.what, one.what);
  });
}
