// Numbers, sizes and times in words; what is unknown is "unknown".

export const UNKNOWN = "unknown";
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** Whether a value of the API is known. */
export function known(value) {
  return value !== null && value !== undefined;
}

/** Binary units with one decimal, as the command line writes them. */
export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  let unit = 0;
  let rest = value;
  while (rest >= 1024 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${rest} B` : `${rest.toFixed(1)} ${UNITS[unit]}`;
}

/** `3.2 of 12.9 GiB`: both in the unit of the second. */
export function bytesOf(done, total) {
  if (!known(total)) return known(done) ? `${bytes(done)} of an unknown size` : UNKNOWN;
  if (!known(done)) return `${UNKNOWN} of ${bytes(total)}`;
  const [from, to] = [bytes(done), bytes(total)];
  const unit = to.split(" ")[1];
  return from.endsWith(` ${unit}`) ? `${from.split(" ")[0]} of ${to}` : `${from} of ${to}`;
}

export function rate(perSecond) {
  return known(perSecond) ? `${bytes(Math.round(perSecond))}/s` : UNKNOWN;
}

export function count(value) {
  return known(value) ? value.toLocaleString("en") : UNKNOWN;
}

/** `1 job`, `2 jobs`. */
export function counted(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Whole per cent of a share; 100 only when all is there. */
export function percent(part, whole) {
  if (!known(part) || !known(whole) || whole <= 0) return null;
  return Math.min(Math.floor((part / whole) * 100), part >= whole ? 100 : 99);
}

/** `45 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const steps = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const at = steps.findIndex(([, size]) => whole >= size);
  if (at < 0) return "0 s";
  const [unit, size] = steps[at];
  const next = steps[at + 1];
  const rest = next ? Math.floor((whole % size) / next[1]) : 0;
  const first = `${Math.floor(whole / size)} ${unit}`;
  return rest > 0 ? `${first} ${rest} ${next[0]}` : first;
}

/** `now`, `3 min ago`, `in 2 h`; one unit is enough. */
export function ago(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (Number.isNaN(seconds)) return UNKNOWN;
  if (Math.abs(seconds) < 5) return "now";
  const far = span(Math.abs(seconds)).split(" ").slice(0, 2).join(" ");
  return seconds > 0 ? `${far} ago` : `in ${far}`;
}

/** The moment in the reader's own time zone, to the second. */
export function moment(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return UNKNOWN;
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${clock(date)}`;
}

/** `14:02:31`, or `14:02` without seconds. */
export function clock(date, seconds = true) {
  const two = (number) => String(number).padStart(2, "0");
  const parts = [date.getHours(), date.getMinutes()].concat(seconds ? [date.getSeconds()] : []);
  return parts.map(two).join(":");
}

/** `least_recently_used` as people write it. */
export function words(word) {
  return String(word).replaceAll("_", " ");
}

/** A sentence: a capital at its beginning, one full stop at its end. */
export function sentence(text) {
  const whole = String(text).trim();
  return `${whole.charAt(0).toUpperCase()}${whole.slice(1)}${/[.!?…]$/.test(whole) ? "" : "."}`;
}
