// Puts the page together: who asks what and how often, the tiles at the top, and what is said when larder is away.

import { age, byId, el, keyed, mark, say, show, trouble } from "./dom.js";
import { UNKNOWN, bytes, bytesOf, clock, count, counted, known, moment, rate, sentence, span, words } from "./format.js";
import { askCache, diskInShort, evictionOffUntil } from "./disk.js";
import { askHistory, gpusInShort, setUpGpus } from "./gpus.js";
import { askHost, hostInShort } from "./host.js";
import { askAllJobs, askMovingJobs, jobsInShort, setUpJobs } from "./jobs.js";
import { askModels, modelsInShort, setUpModels } from "./models.js";
import { Poller, ask, hasToken, keepToken } from "./net.js";
import { askPlan, planInShort, setUpPlan } from "./plan.js";

const SECOND = 1_000;
/** What each tile rests on. */
const TILES = [
  ["host", ["host"]],
  ["jobs", ["moving jobs"]],
  ["speed", ["moving jobs"]],
  ["gpus", ["host"]],
  ["disk", ["cache"]],
  ["models", ["models"]],
  ["plan", ["plan"]],
];
const poller = new Poller(tell);
/** The questions that fail while larder answers others. */
const troubled = new Set();
let ready = null;
let refused = false;

function start() {
  setUpJobs();
  setUpModels();
  setUpPlan(() => poller.now("plan"));
  setUpGpus();
  setUpToken();
  byId("pause").addEventListener("click", () => poller.pause(!poller.paused));
  const add = (name, sections, every, run) => {
    const says = sections.map((id) => trouble(byId(id)));
    const failed = (failure) => {
      says.forEach((say) => say(failure));
      troubled[failure === null ? "delete" : "add"](name);
      tiles();
    };
    poller.add(name, every * SECOND, run, failed);
  };
  // The first one finds out whether larder is there.
  add("moving jobs", ["jobs"], 2, async () => {
    if (!(await askMovingJobs())) return;
    for (const name of ["models", "cache", "plan"]) poller.now(name);
  });
  add("jobs", ["jobs"], 20, askAllJobs);
  add("host", ["host", "gpus"], 5, askHost);
  add("cache", ["disk"], 5, askCache);
  add("models", ["models"], 30, askModels);
  add("plan", ["plan"], 30, askPlan);
  add("vram", ["gpus"], 30, askHistory);
  add("ready", [], 10, askReady);
  poller.wake();
  setInterval(() => {
    if (!poller.running) return;
    age();
    tell();
  }, SECOND);
}

/** Whether larder can work; what it says when it cannot is shown with the rest. */
async function askReady() {
  try {
    await ask("/readyz");
    ready = null;
  } catch (error) {
    if (error.kind !== "problem") throw error;
    ready = error;
  }
}

function setUpToken() {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = byId("token");
    if (!/^[\x21-\x7e]+$/.test(input.value.trim())) {
      say(byId("token-wrong"), "That is no token: letters, digits and signs of ASCII alone can be sent.");
      return;
    }
    keepToken(input.value.trim());
    input.value = "";
    refused = true;
    poller.mode = "starting";
    poller.wake();
  });
  byId("forget").addEventListener("click", () => {
    keepToken("");
    // What was shown with the token is not left for the next reader.
    location.reload();
  });
}

/** Says how it stands with the connection, and what is wrong at large. */
function tell() {
  const { mode, failure } = poller;
  const asks = mode === "token" || mode === "role";
  const wasHidden = byId("token-box").hidden;
  show(byId("token-box"), asks);
  if (asks) {
    const again = mode === "role" ? "That token may not read here." : "That token is not accepted.";
    if (refused || mode === "role") say(byId("token-wrong"), again);
    if (wasHidden) byId("token").focus();
  }
  if (mode === "live") {
    refused = false;
    say(byId("token-wrong"), "");
  }
  show(byId("forget"), hasToken());
  mark(document.body, "data-mode", poller.paused ? "paused" : mode);
  mark(byId("pause"), "aria-pressed", String(poller.paused));
  freshness();
  away(mode === "away" ? failure : null);
  notice("notice-ready", ready === null ? null : `${sentence(ready.message)} ${sentence(ready.hint)}`);
  const until = evictionOffUntil();
  const off = known(until) && Date.parse(until) > Date.now();
  notice("notice-eviction", off ? `Larder's records were lost: nothing is evicted on its own until ${moment(until)}.` : null);
}

function notice(id, text) {
  const node = byId(id);
  show(node, text !== null);
  say(node, text ?? "");
}

/** What is read out is said once; what ticks stands beside it. */
function away(failure) {
  const at = poller.answeredAt;
  const since = at === null ? "" : ` It answered last at ${clock(new Date(at))}; what is shown is from then.`;
  notice("notice-away", failure === null ? null : `Larder does not answer: ${sentence(failure.message)}${since}`);
  show(byId("away-ticks"), failure !== null);
  if (failure === null) return;
  const long = at === null ? "" : `Away for ${span((Date.now() - at) / SECOND)}. `;
  const next = poller.retryAt === null ? 0 : Math.ceil((poller.retryAt - Date.now()) / SECOND);
  say(byId("away-ticks"), `${long}${next > 0 ? `Next try in ${next} s.` : "Trying now."}`);
}

function freshness() {
  const { mode, paused, answeredAt } = poller;
  const modes = { starting: "asking", token: "asks for a token", role: "asks for another token", away: "away" };
  const old = answeredAt === null ? 0 : (Date.now() - answeredAt) / SECOND;
  const live = old < 5 ? "live" : `${span(old)} old`;
  const text = paused ? `paused${answeredAt === null ? "" : ` at ${clock(new Date(answeredAt))}`}` : (modes[mode] ?? live);
  say(byId("freshness"), text);
}

/** A tile: what it says, the small print in parts that may each be bad, and whether the whole is good. */
function tile(name, text, small, look = null) {
  say(byId(`tile-${name}`), text);
  mark(byId(`tile-${name}`), "data-look", look);
  const parts = [small].flat().map((part) => (typeof part === "string" ? { text: part, look: null } : part));
  keyed(byId(`tile-${name}-small`), parts, (part) => part.text, () => ({ root: el("span") }), (drawn, part) => {
    say(drawn.root, part.text);
    mark(drawn.root, "data-look", part.look);
  });
}

function tiles() {
  hostTile(hostInShort());
  jobTiles(jobsInShort());
  gpuTile(gpusInShort());
  const disk = diskInShort();
  if (disk !== null) tile("disk", `${bytes(disk.free)} free`, [`of ${bytes(disk.total)}`, `${disk.full ?? UNKNOWN} % full`]);
  const models = modelsInShort();
  if (models !== null) {
    const small = [`${count(models.pinned)} pinned`, `${count(models.busy)} in use`];
    tile("models", counted(models.number, "revision"), small);
  }
  planTile(planInShort());
  for (const [name, rests] of TILES) {
    if (rests.some((question) => troubled.has(question))) tile(name, UNKNOWN, "cannot be read now", "warn");
  }
}

function hostTile(host) {
  if (host === null) return;
  const { state, reasons } = host.health;
  say(byId("host-name"), host.name);
  say(byId("version"), `larder ${host.version}`);
  document.title = `${state === "degraded" ? "(!) " : ""}${host.name} · larder`;
  const look = { healthy: "good", degraded: "bad" }[state] ?? "warn";
  tile("host", state, reasons.length > 0 ? counted(reasons.length, "reason") : "nothing is known to be wrong", look);
}

function jobTiles(jobs) {
  if (jobs === null) return;
  const more = jobs.isCut ? "+" : "";
  const waits = `${count(jobs.waiting)}${more} waiting`;
  const failed = { text: `${count(jobs.failed)}${more} failed`, look: jobs.failed > 0 ? "bad" : null };
  tile("jobs", `${count(jobs.running)} running`, [`${count(jobs.queued)}${more} queued`, waits, failed]);
  const speed = known(jobs.speed) ? rate(jobs.speed) : "…";
  tile("speed", jobs.downloads === 0 ? "idle" : speed, `${count(jobs.downloads)} running`);
}

function planTile(plan) {
  if (plan === null) return;
  const { models, freed, short } = plan;
  const small = [
    models > 0 ? `frees ${bytes(freed)}` : short > 0 ? "nothing can go" : "nothing would go",
    ...(short > 0 ? [{ text: `${bytes(short)} short`, look: "bad" }] : []),
  ];
  tile("plan", models > 0 ? `${count(models)} would go` : short > 0 ? "blocked" : "no need", small, models > 0 || short > 0 ? "warn" : null);
}

function gpuTile(gpus) {
  if (gpus === null) return;
  if (gpus.number === 0) {
    tile("gpus", "no GPU", words(gpus.none?.word ?? UNKNOWN));
    return;
  }
  const text = known(gpus.total) ? bytesOf(gpus.used, gpus.total) : UNKNOWN;
  const small = [
    counted(gpus.number, "GPU"),
    gpus.stale ? { text: "not read lately", look: "warn" } : "memory used",
    ...(gpus.lost > 0 ? [{ text: `${count(gpus.lost)} lost`, look: "bad" }] : []),
  ];
  tile("gpus", text, small);
}

start();
