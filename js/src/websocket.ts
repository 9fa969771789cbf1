/** The standard WebSocket interface over a client that comes back: for code that used `new WebSocket`. */

import { checkClose, Lifeline, type LifelineOptions } from './lifeline.js';

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

type Sendable = string | ArrayBuffer | ArrayBufferView | Blob;
type Handler<E extends Event> = ((this: ReconnectingWebSocket, event: E) => unknown) | null;

/**
 * Each connection gives `open` and each loss `close`; `readyState` is CONNECTING in between, what is sent then waits.
 * After `close()`, or when coming back is pointless, `readyState` is CLOSED.
 */
export class ReconnectingWebSocket extends EventTarget {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSING = 2;
  static readonly CLOSED = 3;
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSING = 2;
  readonly CLOSED = 3;

  readonly url: string;
  readonly extensions = '';
  binaryType: BinaryType;
  protocol = '';
  onopen: Handler<Event> = null;
  onmessage: Handler<MessageEvent> = null;
  onclose: Handler<CloseEvent> = null;
  onerror: Handler<Event> = null;
  onconnecting: Handler<Event> = null;

  #target: string | URL;
  #options: LifelineOptions;
  #client: Lifeline;
  #debug: boolean;
  #closing = false;
  /** What must go before what is sent next: blobs are read first. */
  #blobs: Promise<void> | undefined;
  #blobBytes = 0;

  constructor(url: string | URL, protocols: string | string[] = [], options: ReconnectingWebSocketOptions = {}) {
    super();
    const { reconnectInterval: base = 1000, maxReconnectInterval: max = 30000, reconnectDecay: factor = 1.5, maxReconnectAttempts } = options;
    const { timeoutInterval: connectTimeout = 10000, automaticOpen: connect = true, debug = false, binaryType = 'blob', lifeline } = options;
    this.binaryType = binaryType;
    this.#debug = debug;
    this.#options = {
      storage: 'memory',
      ...options,
      connectTimeout,
      protocols,
      mode: lifeline ? 'auto' : 'plain',
      outbox: { ttl: Infinity, ...options.outbox },
      reconnect: { base, max, factor, maxAttempts: maxReconnectAttempts ?? undefined, ...options.reconnect },
    };
    this.#target = url;
    this.#client = this.#start(connect);
    this.url = this.#client.url;
  }

  get readyState(): 0 | 1 | 2 | 3 {
    const { state } = this.#client;
    if (this.#closing) return this.CLOSING;
    return state === 'connected' ? this.OPEN : state === 'closed' ? this.CLOSED : this.CONNECTING;
  }

  /** Bytes that have not left, or with `lifeline` were not acknowledged. */
  get bufferedAmount(): number {
    return this.#client.bufferedAmount + this.#blobBytes;
  }

  /** Connects, after `automaticOpen: false` or `close()`. */
  open(): void {
    if (this.#client.state === 'closed') this.#client = this.#start(true);
    else this.#client.connect();
  }

  /** Drops the connection and connects again. */
  refresh(): void {
    this.#client.reconnect();
  }

  send(data: Sendable): void {
    if (this.readyState > 1) return;
    const client = this.#client;
    if (typeof Blob === 'undefined' || !(data instanceof Blob)) {
      if (!this.#blobs) client.send(data as string);
      else this.#later(Promise.resolve(data as string), 0);
    } else this.#later(data.arrayBuffer(), data.size);
  }

  close(code = 1000, reason = ''): void {
    const client = this.#client;
    if (this.readyState > 1) return;
    checkClose(code);
    this.#closing = true;
    if (this.#blobs) void this.#blobs.then(() => client.close(code, reason));
    else client.close(code, reason);
  }

  #later(data: Promise<string | ArrayBuffer>, bytes: number): void {
    const client = this.#client;
    this.#blobBytes += bytes;
    const mine: Promise<void> = (this.#blobs = (this.#blobs ?? Promise.resolve())
      .then(() => data)
      .then((data) => {
        this.#blobBytes -= bytes;
        if (client.state !== 'closed') client.send(data);
      })
      .catch(() => this.#fire(new Event('error')))
      .then(() => {
        if (this.#blobs === mine) this.#blobs = undefined;
      }));
  }

  #start(connect: boolean): Lifeline {
    const client = new Lifeline(this.#target, { ...this.#options, connect });
    client.on('state', ({ from, to }) => {
      // What could not be opened; the end of what was open is a close.
      if (from === 'connecting' && to !== 'connected') this.#fire(new Event('error'));
      if (to === 'connecting') this.#fire(new Event('connecting'));
    });
    client.on('open', () => {
      this.protocol = client.protocol;
      this.#fire(new Event('open'));
    });
    const message = ({ data }: { data: string | ArrayBuffer }): void => {
      const value = typeof data !== 'string' && this.binaryType === 'blob' ? new Blob([data]) : data;
      this.#fire(new MessageEvent('message', { data: value, origin: new URL(this.url).origin }));
    };
    client.on('message', message);
    client.on('snapshot', message);
    client.on('close', ({ code, reason, final }) => {
      const event = Object.assign(new Event('close'), { code, reason, wasClean: code !== 1006 });
      if (!final) return this.#fire(event);
      // As the standard has it: not before close() has returned.
      setTimeout(() => {
        this.#closing = false;
        this.#fire(event);
      });
    });
    return client;
  }

  #fire(event: Event): void {
    if (this.#debug) console.debug('ReconnectingWebSocket', event.type, this.url, event);
    // Handlers first; the order in which they and listeners were set is not kept.
    const handler = this[`on${event.type}` as 'onopen'];
    if (handler) {
      try {
        handler.call(this, event);
      } catch (error) {
        setTimeout(() => {
          throw error;
        });
      }
    }
    this.dispatchEvent(event);
  }
}
