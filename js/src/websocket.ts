/** The standard WebSocket interface over a client that comes back: for code that used `new WebSocket`. */

import { Lifeline, type LifelineOptions } from './lifeline.js';

/** The names of joewalnes' reconnecting-websocket. Durations in milliseconds. */
export interface ReconnectingWebSocketOptions extends Omit<LifelineOptions, 'protocols' | 'mode' | 'connect'> {
  /** Window of the second retry; 1000. The first one is within 100 ms. */
  reconnectInterval?: number;
  /** Widest window; 30000. */
  maxReconnectInterval?: number;
  /** What each next window is multiplied with; 1.5. */
  reconnectDecay?: number;
  /** For the handshake; 10000. */
  timeoutInterval?: number;
  /** Retries in a row; default: no limit. */
  maxReconnectAttempts?: number | null;
  /** Connect at once; true. Else `open()` does. */
  automaticOpen?: boolean;
  /** Tell the console what happens. */
  debug?: boolean;
  binaryType?: BinaryType;
  /** Speak `lifeline.v1` with a server that knows it: nothing is lost or doubled over a reconnect. */
  lifeline?: boolean;
}

type Handler<E extends Event> = ((this: ReconnectingWebSocket, event: E) => unknown) | null;

/**
 * Each connection gives `open` and each loss `close`; `readyState` is CONNECTING in between, what is sent then waits.
 * After `close()`, or when coming back is pointless, `readyState` is CLOSED.
 */
export class ReconnectingWebSocket extends EventTarget {
  declare static readonly CONNECTING: 0;
  declare static readonly OPEN: 1;
  declare static readonly CLOSING: 2;
  declare static readonly CLOSED: 3;
  declare readonly CONNECTING: 0;
  declare readonly OPEN: 1;
  declare readonly CLOSING: 2;
  declare readonly CLOSED: 3;

  declare readonly url: string;
  readonly extensions = '';
  declare binaryType: BinaryType;
  protocol = '';
  declare onopen: Handler<Event>;
  declare onmessage: Handler<MessageEvent>;
  declare onclose: Handler<CloseEvent>;
  declare onerror: Handler<Event>;
  declare onconnecting: Handler<Event>;
  /** Connects, after `automaticOpen: false` or `close()`. */
  declare open: () => void;
  /** Drops the connection and connects again. */
  declare refresh: () => void;
  declare send: (data: string | ArrayBuffer | ArrayBufferView | Blob) => void;
  declare close: (code?: number, reason?: string) => void;
  declare readonly readyState: 0 | 1 | 2 | 3;
  /** Bytes that have not left, or with `lifeline` were not acknowledged. */
  declare readonly bufferedAmount: number;

  constructor(url: string | URL, protocols: string | string[] = [], options: ReconnectingWebSocketOptions = {}) {
    super();
    const { reconnectInterval: base = 1000, maxReconnectInterval: max, reconnectDecay: factor = 1.5, maxReconnectAttempts } = options;
    const { timeoutInterval: connectTimeout, automaticOpen, debug, lifeline } = options;
    this.binaryType = options.binaryType ?? 'blob';
    let closing = false;
    /** Blobs are read first, and what is sent then waits for them. */
    let blobs: Promise<void> | undefined;

    const fire = (type: string, more?: object, event = new Event(type)) => {
      if (debug) console.debug(url, type, more);
      this.dispatchEvent(Object.assign(event, more));
    };
    for (const name of ['open', 'message', 'close', 'error', 'connecting'] as const) {
      const handler = `on${name}` as 'onopen';
      this[handler] = null;
      this.addEventListener(name, (event) => this[handler]?.(event));
    }

    const start = (connect?: boolean) => {
      const client = new Lifeline(url, {
        storage: 'memory',
        ...options,
        connectTimeout,
        connect: connect !== false,
        protocols,
        mode: lifeline ? 'auto' : 'plain',
        outbox: { ttl: Infinity, ...options.outbox },
        reconnect: { base, max, factor, maxAttempts: maxReconnectAttempts ?? undefined, ...options.reconnect },
      });
      client.on('message', ({ data }) =>
        fire('', {}, new MessageEvent('message', { data: typeof data !== 'string' && this.binaryType === 'blob' ? new Blob([data]) : data })),
      );
      client.on('state', ({ from, to }) => {
        // What could not be opened; the end of what was open is a close.
        if (from === 'connecting' && to !== 'connected') fire('error');
        if (to === 'connecting') fire(to);
      });
      client.on('open', () => {
        this.protocol = client.protocol;
        fire('open');
      });
      client.on('close', ({ code, reason, final }) => {
        const close = () => {
          closing &&= !final;
          fire('close', { code, reason, wasClean: code !== 1006 });
        };
        // As the standard has it: not before close() has returned.
        if (final) setTimeout(close);
        else close();
      });
      return client;
    };
    let client = start(automaticOpen);
    this.url = client.url;

    this.open = () => {
      if (client.state === 'closed') client = start();
      else client.connect();
    };
    this.refresh = () => client.reconnect();
    this.send = (data) => {
      const { readyState } = this;
      const to = client;
      if (readyState > 1) return;
      if (!blobs && !(data instanceof Blob)) to.send(data);
      else {
        const before = blobs;
        blobs = (async () => {
          const bytes = data instanceof Blob ? data.arrayBuffer() : data;
          await before;
          to.send(await bytes);
        })().catch(() => fire('error'));
      }
    };
    this.close = (code = 1000, reason) => {
      if (code !== 1000 && !(code > 2999 && code < 5000)) throw RangeError(`code ${code}`);
      const of = client;
      if (this.readyState > 1) return;
      closing = true;
      if (blobs) void blobs.then(() => of.close(code, reason));
      else of.close(code, reason);
    };
    Object.defineProperties(this, {
      readyState: { get: () => (closing ? 2 : ({ connected: 1, closed: 3 } as Record<string, number>)[client.state] ?? 0) },
      bufferedAmount: { get: () => client.stats.bytes },
    });
  }
}

for (const on of [ReconnectingWebSocket, ReconnectingWebSocket.prototype]) Object.assign(on, { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 });
