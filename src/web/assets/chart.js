// A small picture of what was used over time: an area with its gaps, the size above it, and what lies under the pointer.

import { el, mark, say, svg } from "./dom.js";
import { UNKNOWN, bytes, clock, known } from "./format.js";

const WIDTH = 600;
const HEIGHT = 100;
/** Readings further apart than this are not joined, in milliseconds. */
const GAP = 180_000;
/** A single reading is as wide as this. */
const MINUTE = 60_000;

export class Chart {
  constructor() {
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    const grid = [0.25, 0.5, 0.75].map((share) => {
      return svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share });
    });
    const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
    this.picture = svg("svg", box, ...grid, this.area, this.line);
    this.cross = el("i", { class: "cross", hidden: "" });
    this.readout = el("span", { class: "readout", hidden: "", "aria-hidden": "true" });
    this.plot = el("div", { class: "plot", role: "img" }, this.picture, this.cross, this.readout);
    this.times = [0, 1, 2].map(() => el("span"));
    this.root = el("div", { class: "chart" }, this.plot, el("div", { class: "times", "aria-hidden": "true" }, ...this.times));
    this.points = [];
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
  }

  /** `points` are `{at, used}` in order, `used` null where it is unknown; `total` may be. Times are milliseconds. */
  draw(points, total, from, to, name) {
    const seen = points.filter((point) => point.at + MINUTE > from && point.at <= to);
    const most = seen.reduce((most, point) => Math.max(most, point.used ?? 0), 0);
    const top = total ?? (most * 1.1 || 1);
    this.points = seen;
    this.range = { from, to, total };
    const x = (at) => Math.max(0, Math.min(WIDTH, ((at - from) / (to - from)) * WIDTH)).toFixed(1);
    const y = (used) => (HEIGHT - Math.min(used / top, 1) * HEIGHT).toFixed(1);
    const runs = joined(seen);
    const line = runs.map((run) => `M${steps(run, x, y)}`).join("");
    const area = runs.map((run) => {
      const end = Math.min(run[run.length - 1].at + MINUTE, to);
      return `M${x(run[0].at)},${HEIGHT}L${steps(run, x, y)}L${x(end)},${HEIGHT}Z`;
    });
    mark(this.line, "d", line || "M0,0");
    mark(this.area, "d", area.join("") || "M0,0");
    mark(this.plot, "data-empty", runs.length === 0);
    mark(this.plot, "aria-label", `${name}: ${inWords(seen, from)}`);
    [from, (from + to) / 2, to].forEach((at, n) => say(this.times[n], n === 2 ? "now" : clock(new Date(at), false)));
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const { from, to, total } = this.range ?? {};
    if (!known(from) || box.width === 0) return;
    const at = from + ((event.clientX - box.left) / box.width) * (to - from);
    const near = this.points.filter((point) => at >= point.at - MINUTE && at < point.at + 2 * MINUTE);
    const distance = (point) => Math.abs(point.at + MINUTE / 2 - at);
    const best = near.sort((a, b) => distance(a) - distance(b))[0];
    const share = (event.clientX - box.left) / box.width;
    this.cross.hidden = false;
    this.cross.style.left = `${share * 100}%`;
    this.readout.hidden = false;
    mark(this.readout, "data-side", share > 0.5 ? "left" : "right");
    const what = best && known(best.used) ? `${bytes(best.used)}${known(total) ? ` of ${bytes(total)}` : ""}` : UNKNOWN;
    say(this.readout, `${clock(new Date(best?.at ?? at), false)}  ${what}`);
  }

  leave() {
    this.cross.hidden = true;
    this.readout.hidden = true;
  }
}

/** Readings that follow each other without a gap. */
function joined(points) {
  const runs = [];
  let last = null;
  for (const point of points) {
    if (!known(point.used)) {
      last = null;
      continue;
    }
    if (last === null || point.at - last.at > GAP) runs.push([]);
    runs[runs.length - 1].push(point);
    last = point;
  }
  return runs;
}

function steps(run, x, y) {
  const last = run[run.length - 1];
  const dots = run.map((point) => `${x(point.at)},${y(point.used)}`);
  return [...dots, `${x(last.at + MINUTE)},${y(last.used)}`].join("L");
}

/** What the picture shows, for those who do not see it. */
export function inWords(points, from) {
  const told = points.filter((point) => known(point.used));
  if (told.length === 0) return "no reading in this time";
  const most = told.reduce((a, b) => (b.used > a.used ? b : a));
  const least = told.reduce((a, b) => (b.used < a.used ? b : a));
  const since = `since ${clock(new Date(Math.max(points[0].at, from)), false)}`;
  if (least.used === most.used) return `${bytes(most.used)} ${since}`;
  return `between ${bytes(least.used)} and ${bytes(most.used)} ${since}, most at ${clock(new Date(most.at), false)}`;
}
