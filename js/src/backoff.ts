/** How long to wait before a reconnect: the rules of `reconnect.*`, the same as in the other clients. */

/** Durations in milliseconds. */
export interface ReconnectOptions {
  /** Window of the second retry; 500. */
  base?: number;
  /** Widest window; 30000. */
  max?: number | undefined;
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

export interface Backoff {
  /** The delay before the next retry in ms; nothing: no more attempts. `spread` is what the server advertised. */
  next(spread?: number): number | undefined;
  /** There is a connection. */
  begin(now: number): void;
  /** The connection was lost; whether it had been stable, so that the count begins anew. */
  end(now: number): boolean;
}

/** `random` gives numbers from 0 up to 1, as `Math.random` does. */
export function createBackoff(
  { base = 500, max = 30000, factor = 2, floor = 50, first, maxAttempts = Infinity, stableAfter = 5000 }: ReconnectOptions,
  random: () => number,
): Backoff {
  let attempts = 0;
  let since = Infinity;
  const uniform = (low: number, high: number) => (low < high ? low + random() * (high - low) : low);
  return {
    next(spread = 100) {
      if (attempts >= maxAttempts) return undefined;
      if (!attempts++) return uniform(0, first ?? spread);
      const window = Math.min(max, base * factor ** (attempts - 2));
      return Math.max(floor, uniform(Math.min(floor, window), window));
    },
    begin(now) {
      since = now;
    },
    end(now) {
      const stable = now - since >= stableAfter;
      since = Infinity;
      if (stable) attempts = 0;
      return stable;
    },
  };
}
