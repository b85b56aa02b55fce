// The disk: what the cache holds by what may happen to it, what others have, what is promised and free, and where the
// watermarks stand.

import { byId, el, keyed, mark, say, show } from "./dom.js";
import { bytes, counted, known, percent } from "./format.js";
import { ask } from "./net.js";

/** In the order of the bar; names are the API's. */
const CLASSES = [
  ["pinned", "Pinned", "never evicted"],
  ["in_use", "In use", "a process has them open"],
  ["leased", "Leased", "until their leases end"],
  ["evictable", "Evictable", "may go when room is needed"],
  ["partial", "Partial", "transfers under way, or given up"],
  ["foreign", "Foreign", "in the cache's folder, and no model; never touched"],
];

let cache = null;

export async function askCache() {
  cache = await ask("/v1/cache");
  draw();
}

/** What the tile at the top says; `null` while nothing is known. */
export function diskInShort() {
  const disk = cache?.disk;
  if (!known(disk)) return null;
  return { free: disk.free_bytes, total: disk.total_bytes, full: percent(disk.total_bytes - disk.free_bytes, disk.total_bytes) };
}

export function evictionOffUntil() {
  return cache?.eviction_off_until ?? null;
}

/** The parts of the disk, of which the last one is free for anybody. */
function parts() {
  const used = CLASSES.map(([word, name, what]) => ({ word, name, what, bytes: cache.used_bytes[word] }));
  const { disk, reserved_bytes: reserved } = cache;
  if (!known(disk)) return used;
  const ours = used.reduce((sum, part) => sum + part.bytes, 0);
  const promised = Math.min(reserved, disk.free_bytes);
  return [
    ...used,
    { word: "other", name: "Other", what: "not the cache's", bytes: Math.max(0, disk.total_bytes - disk.free_bytes - ours) },
    { word: "reserved", name: "Reserved", what: "promised to running downloads", bytes: promised },
    { word: "free", name: "Free", what: keepFree(), bytes: disk.free_bytes - promised },
  ];
}

function keepFree() {
  return cache.keep_free_bytes > 0 ? `${bytes(cache.keep_free_bytes)} are to stay free` : "";
}

function draw() {
  const all = parts();
  const whole = cache.disk?.total_bytes ?? all.reduce((sum, part) => sum + part.bytes, 0);
  keyed(byId("disk-bar"), all.filter((part) => part.bytes > 0), (part) => part.word, segment, (drawn, part) => {
    drawn.root.style.flexGrow = String(part.bytes / Math.max(whole, 1));
    mark(drawn.root, "title", `${part.name}: ${bytes(part.bytes)}`);
  });
  const size = known(cache.disk) ? `${bytes(cache.disk.total_bytes)}, ${bytes(cache.disk.free_bytes)} free` : "size unknown";
  say(byId("disk-label"), `The disk${place()}: ${size}`);
  keyed(byId("disk-rows"), all, (part) => part.word, row, (drawn, part) => {
    say(drawn.size, bytes(part.bytes));
    const share = percent(part.bytes, whole);
    say(drawn.share, share === null ? "" : share === 0 && part.bytes > 0 ? "< 1 %" : `${share} %`);
    say(drawn.what, part.what);
    mark(drawn.root, "data-none", part.bytes === 0);
  });
  drawLevel();
}

function place() {
  return known(cache.disk?.mountpoint) ? ` at ${cache.disk.mountpoint}` : "";
}

function segment(part) {
  return { root: el("i", { class: "segment", "data-class": part.word }) };
}

function row(part) {
  const [size, share, what] = [el("span"), el("span"), el("span")];
  const root = el(
    "tr",
    { role: "row" },
    el("th", { role: "rowheader", scope: "row" }, el("i", { class: "swatch", "data-class": part.word }), part.name),
    el("td", { role: "cell", class: "narrow right" }, size),
    el("td", { role: "cell", class: "narrow right" }, share),
    el("td", { role: "cell", class: "muted spare" }, what),
  );
  return { root, size, share, what };
}

/** How full it is against the watermarks: of the disk, or of `cache.capacity`. */
function drawLevel() {
  const marks = cache.watermarks;
  show(byId("level"), known(marks));
  if (!known(marks)) {
    say(byId("level-label"), "How full it is against the watermarks is unknown.");
    return;
  }
  const ofWhat = marks.of === "capacity" ? "cache.capacity" : "the disk";
  const full = percent(marks.used_bytes, marks.capacity_bytes);
  const state = marks.used_bytes > marks.high_bytes
    ? `above the high watermark: ${bytes(marks.used_bytes - marks.low_bytes)} would have to go`
    : `${bytes(marks.high_bytes - marks.used_bytes)} below the high watermark`;
  say(byId("level-label"), `${bytes(marks.used_bytes)} of ${bytes(marks.capacity_bytes)} of ${ofWhat} (${full ?? 0} %), ${state}.`);
  const bar = byId("level-bar");
  bar.style.width = `${Math.min(full ?? 0, 100)}%`;
  mark(bar, "data-look", marks.used_bytes > marks.high_bytes ? "warn" : null);
  for (const [id, name, share] of [["level-low", "low", marks.low_percent], ["level-high", "high", marks.high_percent]]) {
    byId(id).style.left = `${share}%`;
    say(byId(id).firstElementChild, `${name} ${share} %`);
  }
  say(byId("disk-policy"), policy());
}

function policy() {
  const may = {
    never: "Nothing is evicted on its own (cache.evict is never).",
    staged: "Only what larder staged itself is evicted on its own",
    all: "Also what other clients fetched is evicted on its own",
  }[cache.evict];
  const first = { lru: ", the least recently used first.", value: ", what is worth least first." }[cache.order];
  const inodes = cache.disk?.inodes_free;
  const few = known(inodes) && percent(inodes, cache.disk.inodes) < 5 ? ` Only ${counted(inodes, "inode")} left.` : "";
  return `${may}${cache.evict === "never" ? "" : first}${few}`;
}
