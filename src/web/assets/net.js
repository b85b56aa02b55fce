// Asks the API: politely, only while somebody looks, and honest about what does not answer.

/** Where the token is kept: until this tab is closed, and nowhere else. */
const TOKEN = "larder-token";
/** Longest wait for an answer, in milliseconds. */
const PATIENCE = 15_000;
/** Pauses while larder is away, in milliseconds; the last one stays. */
const AWAY = [2_000, 4_000, 8_000, 15_000, 30_000];
/** Longest pause of a question that fails while larder answers others, in milliseconds. */
const SLOWEST = 60_000;

/** Why there is no answer: `away`, `token`, `role` or `problem`. */
export class Failure extends Error {
  constructor(kind, what, hint = "", status = 0) {
    super(what);
    this.kind = kind;
    this.hint = hint;
    this.status = status;
  }
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

export function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** The JSON of a path. Fails with a `Failure`. */
export async function ask(path) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const options = { headers, cache: "no-store", credentials: "omit", redirect: "error" };
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE) });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Failure("away", late ? `no answer within ${PATIENCE / 1000} s` : "it cannot be reached");
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    if (response.ok) throw new Failure("away", "the answer broke off");
  }
  if (response.ok) return body;
  const what = typeof body?.detail === "string" ? body.detail : `HTTP ${response.status}`;
  const hint = typeof body?.hint === "string" ? body.hint : "";
  const kind = { 401: "token", 403: "role" }[response.status] ?? "problem";
  throw new Failure(kind, what, hint, response.status);
}

/**
 * Asks several questions again and again: each at its own pace while the tab is seen, none while it is hidden or
 * paused, and a single one with growing pauses while larder is away.
 */
export class Poller {
  /** `changed` is called whenever something about the connection is different. */
  constructor(changed) {
    this.changed = changed;
    this.sources = [];
    /** `starting`, `live`, `away`, `token` or `role`. */
    this.mode = "starting";
    this.paused = false;
    /** When anything was answered last, in milliseconds. */
    this.answeredAt = null;
    this.failure = null;
    this.tries = 0;
    this.retryAt = null;
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** `run` asks and shows; it is called every so many milliseconds. */
  add(name, every, run, failed) {
    this.sources.push({ name, every, run, failed, timer: 0, fails: 0, busy: false });
  }

  get running() {
    return !this.paused && document.visibilityState === "visible";
  }

  pause(paused) {
    this.paused = paused;
    this.wake();
    this.changed();
  }

  /** Asks everything now, or stops everything. */
  wake() {
    for (const source of this.sources) clearTimeout(source.timer);
    if (!this.running) return;
    const first = this.mode === "live" ? this.sources : this.sources.slice(0, 1);
    for (const source of first) this.step(source);
  }

  /** Asks one question now. */
  now(name) {
    const source = this.sources.find((one) => one.name === name);
    if (source && this.running && this.mode === "live") this.step(source);
  }

  async step(source) {
    clearTimeout(source.timer);
    if (source.busy) return;
    source.busy = true;
    const begun = Date.now();
    let pause = source.every;
    try {
      await source.run();
      source.fails = 0;
      source.failed(null);
      this.answered();
    } catch (error) {
      if (!(error instanceof Failure)) console.error(error);
      source.fails += 1;
      const failure = error instanceof Failure ? error : new Failure("problem", String(error));
      // A question that takes too long while others are answered is its own trouble.
      const alone = failure.kind === "problem" || (failure.kind === "away" && this.answeredAt > begun);
      pause = alone ? this.troubled(source, failure) : this.lost(source, failure);
    } finally {
      source.busy = false;
    }
    clearTimeout(source.timer);
    const leads = this.mode === "live" || source === this.sources[0];
    if (this.running && leads && pause !== null) source.timer = setTimeout(() => this.step(source), pause);
  }

  answered() {
    const back = this.mode !== "live";
    this.answeredAt = Date.now();
    this.mode = "live";
    this.failure = null;
    this.tries = 0;
    this.retryAt = null;
    this.changed();
    if (back) for (const source of this.sources.slice(1)) if (this.running) this.step(source);
  }

  /** One question failed while larder is there. */
  troubled(source, failure) {
    source.failed(failure);
    this.answered();
    return Math.min(source.every * 2 ** source.fails, SLOWEST);
  }

  /** Larder is away or does not let us in; the pause until the first question is asked again. */
  lost(source, failure) {
    if (this.mode !== failure.kind) this.tries = 0;
    this.mode = failure.kind;
    this.failure = failure;
    for (const other of this.sources.slice(1)) clearTimeout(other.timer);
    // What is refused stays refused until somebody enters another token.
    let pause = null;
    if (failure.kind === "away" && source === this.sources[0]) {
      pause = AWAY[Math.min(this.tries, AWAY.length - 1)];
      this.tries += 1;
      this.retryAt = Date.now() + pause;
    }
    this.changed();
    return pause;
  }
}
