/** How long to wait before a reconnect: the rules of `reconnect.*`, the same as in the other clients. */

/** Durations in milliseconds. */
export interface ReconnectOptions {
  /** Window of the second retry; 500. */
  base?: number;
  /** Widest window; 30000. */
  max?: number;
  /** What each next window is multiplied with; 2. */
  factor?: number;
  /** Shortest delay, except of the first retry; 50. */
  floor?: number;
  /** Window of the first retry; default: what the server advertised, else 100. */
  first?: number | undefined;
  /** Retries in a row before the client gives up; default: no limit. */
  maxAttempts?: number | undefined;
  /** How long a connection must live for the count to begin anew; 5000. */
  stableAfter?: number;
}

export class Backoff {
  attempts = 0;
  #options: Required<Omit<ReconnectOptions, 'first' | 'maxAttempts'>> & ReconnectOptions;
  #random: () => number;
  #connected: number | undefined;

  /** `random` gives numbers from 0 up to 1, as `Math.random` does. */
  constructor(options: ReconnectOptions, random: () => number) {
    this.#options = { base: 500, max: 30000, factor: 2, floor: 50, stableAfter: 5000, ...options };
    this.#random = random;
  }

  /** The delay before the next retry in ms; nothing: no more attempts. `spread` is what the server advertised. */
  next(spread?: number): number | undefined {
    const { base, max, factor, floor, first = spread ?? 100, maxAttempts } = this.#options;
    if (maxAttempts != null && this.attempts >= maxAttempts) return undefined;
    if (!this.attempts++) return this.#uniform(0, first);
    const window = Math.min(max, base * factor ** (this.attempts - 2));
    return Math.max(floor, this.#uniform(Math.min(floor, window), window));
  }

  connected(now: number): void {
    this.#connected = now;
  }

  /** The connection was lost; whether it had been stable, so that the count begins anew. */
  lost(now: number): boolean {
    const stable = this.#connected != null && now - this.#connected >= this.#options.stableAfter;
    this.#connected = undefined;
    if (stable) this.attempts = 0;
    return stable;
  }

  #uniform(low: number, high: number): number {
    return low >= high ? low : low + this.#random() * (high - low);
  }
}
