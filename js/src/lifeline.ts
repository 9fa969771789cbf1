/** The client as applications use it: the rules of core.ts with a WebSocket, timers, a store and the page's events. */

import type { ReconnectOptions } from './backoff.js';
import { type Data, size } from './codec.js';
import { Core, type Emit, type Events, type Output, type State } from './core.js';
import type { OutboxOptions } from './outbox.js';
import { randomId, Store } from './store.js';

export interface LifelineOptions {
  /** Gives the application's credentials, e.g. a JWT; asked again when the server says that they have expired. */
  token?: () => string | Promise<string>;
  /** Subprotocols to offer behind `lifeline.v1`, for servers that do not know it. */
  protocols?: string | string[];
  /** Connect at once; true. Else `connect()` does. */
  connect?: boolean;
  /** `lifeline`: nothing but `lifeline.v1`; `plain`: do not offer it; `auto`: offer it and take what there is. */
  mode?: 'auto' | 'lifeline' | 'plain';
  /** `memory`: keep nothing over a reload; `auto`: keep it where the browser can. */
  storage?: 'auto' | 'memory';
  /** Whose messages are kept, e.g. the user's id: what one has left is never sent for another. */
  name?: string;
  /** Of writes to IndexedDB: `relaxed` outlives the browser's end, `strict` also the system's. */
  durability?: 'relaxed' | 'strict';
  /** For the handshake, in ms; 10000. */
  connectTimeout?: number;
  reconnect?: ReconnectOptions;
  outbox?: OutboxOptions;
  /** In place of the global one. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocket;
}

export interface Stats {
  state: State;
  /** Dials since the last stable connection. */
  attempt: number;
  /** Whether the server speaks `lifeline.v1`. */
  lifeline: boolean;
  /** The outbox outlives the page. */
  durable: boolean;
  /** Messages sent and not acknowledged, and their bytes. */
  unacknowledged: number;
  bytes: number;
  /** Messages that came twice and were dropped. */
  duplicates: number;
  gaps: number;
  rejected: number;
  /** How often the session went on without a hole. */
  resumed: number;
  /** How long the last probe's answer took, in ms. */
  rtt: number | undefined;
}

/** The option under which an instance gets the store of a tab that is gone. */
const ORPHAN = Symbol();
type Internal = LifelineOptions & { [ORPHAN]?: Store };

type Listener<K extends keyof Events> = (event: Events[K]) => unknown;

/** Several clients of one scope in one page are told apart by a number; those in use. */
const slots = new Set<string>();
/** Between the end of a batch of messages and its acknowledgement. */
const BATCH = 20;
/** How often to look for tabs that are gone; one is adopted when it was found gone twice. */
const LOOK_FOR_ORPHANS = 10000;
const POLL_BUFFER = 50;

export class Lifeline {
  /** Where it connects to. */
  readonly url: string;

  #options: LifelineOptions;
  #core: Core;
  #socket: WebSocket | undefined;
  #listeners = new Map<string, Set<Listener<never>>>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #last = 0;
  #offset = 0;
  #pumping = false;
  #auth: string | undefined;
  #dials = 0;
  #ready: Promise<void>;
  #closed = false;
  #waiting: ((done: boolean) => void)[] = [];
  #unlisten: (() => void)[] = [];
  // What is to be kept, and what was handled since.
  #store: Store | undefined;
  #put: { q: number; data: Data; size: number; expires: number }[] = [];
  #forget: { q: number; all: boolean }[] = [];
  #handled = 0;
  #bytes = 0;
  #dirty = false;
  #batch: ReturnType<typeof setTimeout> | undefined;
  #committing: Promise<void> | undefined;
  #slot = '';
  /** Of which tabs the lock was free when we looked, and what the server did not let us send. */
  #gone = new Set<string>();
  #refused = new Set<string>();
  #orphans: ReturnType<typeof setTimeout> | undefined;
  #adopted: Lifeline | undefined;

  /** `url`: ws, wss, http or https, also relative to the page. */
  constructor(url: string | URL, options: LifelineOptions = {}) {
    const orphan = (options as Internal)[ORPHAN];
    const parsed = new URL(url, globalThis.document?.baseURI);
    parsed.protocol = parsed.protocol.replace('http', 'ws');
    parsed.hash = '';
    if (!/^wss?:$/.test(parsed.protocol)) throw new SyntaxError(`${parsed.protocol} is none of ws:, wss:, http:, https:`);
    this.url = parsed.href;
    this.#options = options;
    const durable = !!orphan || (options.storage !== 'memory' && canKeep());
    this.#core = new Core({ ...options, durable });
    this.#ready = this.#open(durable, `${options.name ?? ''}@${parsed.origin}${parsed.pathname}`, orphan);
    this.#listenToPage();
    if (options.connect !== false) this.connect();
  }

  get state(): State {
    return this.#core.state;
  }

  get stats(): Stats {
    const { state, dials: attempt, lifeline, session, outbox, rtt } = this.#core;
    const { length: unacknowledged, bytes } = outbox;
    return { state, attempt, lifeline, durable: !!this.#store, unacknowledged, bytes, ...session.counters, rtt };
  }

  /** The subprotocol that the server selected, without `lifeline.v1`. */
  get protocol(): string {
    const protocol = this.#socket?.protocol ?? '';
    return protocol === 'lifeline.v1' ? '' : protocol;
  }

  get bufferedAmount(): number {
    return this.#core.outbox.bytes;
  }

  /** Connects, where the option `connect` was false. */
  connect(): void {
    void this.#ready.then(() => {
      if (!this.#closed) this.#do((now) => this.#core.connect(now));
    });
  }

  /**
   * Takes a message, which leaves when it can; connected or not. Returns its number: 1, 2, 3, … `flush()` tells
   * when all have arrived, the events `reject` and `overflow` which never will. `ttl` in ms.
   */
  send(data: string | ArrayBuffer | ArrayBufferView, { ttl }: { ttl?: number } = {}): number {
    let copy: Data;
    if (data instanceof ArrayBuffer) copy = new Uint8Array(data.slice(0));
    else if (ArrayBuffer.isView(data)) copy = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength).slice();
    else if (typeof data === 'string') copy = data;
    else throw new TypeError('data is none of string, ArrayBuffer, ArrayBufferView');
    return this.#do((now) => this.#core.send(now, copy, ttl));
  }

  /** Whether everything sent was acknowledged (plain WebSocket: has left); false after `timeout` ms or at the end. */
  flush(timeout?: number): Promise<boolean> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      if (timeout !== undefined) setTimeout(() => resolve(false), timeout);
      this.#settle();
    });
  }

  subscribe(channel: string): void {
    this.#do((now) => this.#core.subscribe(now, channel));
  }

  unsubscribe(channel: string): void {
    this.#do((now) => this.#core.unsubscribe(now, channel));
  }

  /** Calls `listener` for each event of that name; returns what takes it off again. */
  on<K extends keyof Events>(name: K, listener: Listener<K>): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => this.off(name, listener);
  }

  off<K extends keyof Events>(name: K, listener: Listener<K>): void {
    this.#listeners.get(name)?.delete(listener);
  }

  /** Connects now instead of after the delay; where there is a connection, finds out soon whether it is alive. */
  wake(): void {
    this.#do((now) => this.#core.wake(now));
  }

  /** Drops the connection, if there is one, and connects again at once. */
  reconnect(): void {
    this.#do((now) => {
      this.#core.reconnect(now);
      if (this.state === 'reconnecting') this.#core.wake(now);
    });
  }

  /** Asks the option `token` and tells the server, without a new connection. */
  async refresh(): Promise<void> {
    const auth = (this.#auth = await this.#options.token?.());
    if (auth !== undefined) this.#do((now) => this.#core.refresh(now, auth));
  }

  /** Ends the client and its session. What was not acknowledged goes to `overflow`, or stays in the store. */
  close(code = 1000, reason = ''): void {
    checkClose(code);
    this.#do(() => this.#core.close(code, reason));
  }

  async #open(durable: boolean, scope: string, orphan: Store | undefined): Promise<void> {
    const core = this.#core;
    let slot = 0;
    try {
      if (orphan) this.#store = orphan;
      else if (durable) {
        while (slots.has(`${scope} ${slot}`)) slot++;
        slots.add((this.#slot = `${scope} ${slot}`));
        this.#store = await Store.open(scope, slot, this.#options.durability ?? 'relaxed');
      }
    } catch (error) {
      core.forgo();
      this.#fail('nothing will be kept over a reload', error);
    }
    const { tab, items } = this.#store ?? {};
    // An orphan's session is not resumed: nobody is there for its messages.
    if (tab && items) core.restore(tab.outbox, tab.gen, items, tab.next, orphan ? undefined : tab.saved);
    else core.restore(randomId(), 1, [], 1, undefined);
    this.#do(() => undefined);
  }

  /** Monotonic, and counts the time that the machine sleeps. */
  #now(): number {
    const now = Date.now();
    if (now + this.#offset < this.#last) this.#offset = this.#last - now;
    return (this.#last = now + this.#offset);
  }

  #do<T>(input: (now: number) => T): T {
    try {
      return input(this.#now());
    } finally {
      this.#pump();
    }
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    const core = this.#core;
    for (let output; (output = core.outputs.shift()); ) this.#carryOut(output);
    this.#pumping = false;
    clearTimeout(this.#timer);
    const deadline = Math.min(core.deadline(), core.writing ? this.#last + POLL_BUFFER : Infinity);
    if (deadline < Infinity) {
      this.#timer = setTimeout(
        () => {
          this.#do((now) => {
            core.timeout(now);
            if (core.writing) core.buffered(now, this.#socket?.bufferedAmount ?? 0);
          });
        },
        Math.min(deadline - this.#now(), 0x7fffffff),
      );
    }
    if (this.#put.length) this.#commit();
    else if ((this.#dirty || this.#forget.length) && !this.#batch) this.#batch = setTimeout(() => this.#endBatch(), BATCH);
    this.#settle();
  }

  #carryOut(output: Output): void {
    switch (output.type) {
      case 'emit':
        if (output.name === 'open') {
          this.#dirty = true;
          this.#lookForOrphans();
        }
        return this.#emit(output);
      case 'deliver':
        this.#emit(output.emit);
        this.#core.handled(output.stream, output.sequence);
        this.#dirty = true;
        if (output.stream) {
          this.#handled = output.sequence;
          this.#bytes += output.bytes;
          if (!this.#store) this.#saved(false);
        }
        return;
      case 'dial':
        void this.#dial(output);
        return;
      case 'drop': {
        const socket = this.#detach();
        try {
          socket?.close(output.code > 2999 || output.code === 1000 ? output.code : undefined, shorten(output.reason));
        } catch {
          socket?.close();
        }
        return;
      }
      case 'write':
        this.#socket?.send(output.data);
        return;
      case 'store':
        this.#put.push(output.item);
        return;
      case 'forget':
        if (this.#store) this.#forget.push(output);
        return;
      case 'rekey':
        this.#core.id = this.#store?.rekey() ?? randomId();
        this.#core.gen = 1;
        this.#dirty = true;
        return;
      case 'ended':
        this.#closed = true;
        for (const unlisten of this.#unlisten) unlisten();
        clearTimeout(this.#orphans);
        this.#adopted?.close();
        for (const resolve of this.#waiting.splice(0)) resolve(!this.#core.outbox.length);
        void this.#ready.then(() => this.#leave());
    }
  }

  async #dial({ plain, fresh, url }: Output & { type: 'dial' }): Promise<void> {
    const { token, protocols = [], WebSocket = globalThis.WebSocket } = this.#options;
    this.#detach();
    const dial = ++this.#dials;
    try {
      if (token && (fresh || this.#auth === undefined)) {
        const auth = await token();
        if (dial !== this.#dials) return;
        this.#auth = auth;
      }
    } catch (error) {
      if (dial === this.#dials) this.#do((now) => this.#core.lost(now, 0, 'no token'));
      return this.#fail('the option token failed', error);
    }
    try {
      const socket = new WebSocket(url ?? this.url, [...(plain ? [] : ['lifeline.v1']), ...[protocols].flat()]);
      const auth = this.#auth;
      this.#socket = socket;
      socket.binaryType = 'arraybuffer';
      // The close says it all, but Node's ws throws what nobody listens to.
      socket.onerror = () => undefined;
      socket.onopen = () => this.#do((now) => this.#core.opened(now, socket.protocol === 'lifeline.v1', auth));
      socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => this.#do((now) => this.#core.message(now, data));
      socket.onclose = ({ code, reason }) => {
        this.#detach();
        this.#do((now) => this.#core.lost(now, code, reason));
      };
    } catch (error) {
      // Not allowed here, e.g. ws: from a page of https:.
      this.#do((now) => this.#core.lost(now, 0, String(error), true));
    }
  }

  #detach(): WebSocket | undefined {
    const socket = this.#socket;
    this.#socket = undefined;
    this.#dials++;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    return socket;
  }

  /** What was handled is saved, then acknowledged. */
  #endBatch(): void {
    this.#batch = undefined;
    if (this.#store) return this.#commit();
    this.#dirty = false;
    this.#saved(true);
  }

  /** What was handled may be acknowledged; `end`: it is. */
  #saved(end: boolean, handled = this.#handled, bytes = this.#bytes): void {
    this.#bytes -= bytes;
    this.#do((now) => this.#core.saved(now, handled, bytes, end));
  }

  /** One transaction at a time; what comes meanwhile goes into the next one. */
  #commit(): void {
    const store = this.#store;
    if (!store || this.#committing) return;
    const [put, forget, handled, bytes] = [this.#put.splice(0), this.#forget.splice(0), this.#handled, this.#bytes];
    this.#dirty = false;
    this.#committing = store
      .commit({ put, forget, saved: this.#closed ? undefined : this.#core.session.saved() })
      .catch((error: unknown) => {
        if (this.#closed) return;
        // Going on without is better than standing still.
        this.#store = undefined;
        this.#core.forgo();
        this.#fail('the outbox is no longer kept', error);
      })
      .then(() => {
        this.#committing = undefined;
        if (this.#closed) return;
        const last = put.at(-1);
        if (last) this.#do((now) => this.#core.stored(now, last.q));
        this.#saved(true, handled, bytes);
      });
  }

  /** The end: keeps what is left and lets go of the store. */
  async #leave(): Promise<void> {
    const store = this.#store;
    this.#store = undefined;
    await this.#committing;
    if (store) {
      try {
        await store.commit({ put: this.#put.splice(0), forget: this.#forget.splice(0), saved: undefined });
      } catch {
        // It was told when it failed first.
      }
      await store.close(!this.#core.outbox.length).catch(() => undefined);
    }
    slots.delete(this.#slot);
  }

  /** Sends what tabs that are gone have left, one tab after the other, on a connection of its own. */
  #lookForOrphans(): void {
    clearTimeout(this.#orphans);
    if (this.#store && this.#slot) this.#orphans = setTimeout(() => void this.#look().catch(() => undefined), LOOK_FOR_ORPHANS);
  }

  async #look(): Promise<void> {
    const store = this.#store;
    if (!store || this.#closed) return;
    this.#lookForOrphans();
    if (this.#adopted || !this.#core.open) return;
    const found = await store.orphans();
    for (const id of found) {
      if (this.#refused.has(id)) continue;
      const orphan = await store.adopt(id);
      if (!orphan) this.#gone.delete(id);
      else if (!this.#gone.has(id)) {
        // It may be a page that is being loaded again.
        this.#gone.add(id);
        await orphan.close(false);
      } else {
        const { mode } = this.#core;
        const options: Internal = { ...this.#options, mode, connect: true, [ORPHAN]: orphan };
        const adopted = (this.#adopted = new Lifeline(this.url, options));
        for (const name of ['reject', 'overflow', 'error'] as const) adopted.on(name, (value) => this.#emit({ type: 'emit', name, value } as Emit));
        adopted.on('close', ({ final }) => {
          if (!final) return;
          this.#adopted = undefined;
          if (adopted.stats.unacknowledged) this.#refused.add(id);
        });
        void adopted.flush().then(() => adopted.close());
        return;
      }
    }
  }

  #listenToPage(): void {
    const listen = (target: EventTarget | undefined, name: string, listener: () => void): void => {
      target?.addEventListener?.(name, listener);
      this.#unlisten.push(() => target?.removeEventListener?.(name, listener));
    };
    const wake = (): void => this.wake();
    const { document } = globalThis;
    listen(globalThis, 'online', () => {
      // A plain connection cannot be asked whether it survived.
      if (this.#core.open && !this.#core.lifeline) this.reconnect();
      else wake();
    });
    listen(globalThis, 'pageshow', wake);
    listen(document, 'resume', wake);
    listen(globalThis, 'offline', () => this.#do((now) => this.#core.doubt(now)));
    listen(document, 'visibilitychange', () => {
      if (document.visibilityState === 'visible') wake();
      else this.#endBatch();
    });
  }

  #settle(): void {
    if (!this.#core.outbox.length && this.#core.id) for (const resolve of this.#waiting.splice(0)) resolve(true);
  }

  #fail(what: string, error: unknown): void {
    this.#emit({ type: 'emit', name: 'error', value: new Error(`${what}: ${error instanceof Error ? error.message : String(error)}`) });
  }

  #emit({ name, value }: Emit): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        (listener as (value: unknown) => unknown)(value);
      } catch (error) {
        // As the browser does it: the others go on, window.onerror is told.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}

/** What browsers let a page close with. */
export function checkClose(code: number): void {
  if (code !== 1000 && !(code >= 3000 && code < 5000)) throw new RangeError(`code is ${code}, allowed are 1000 and 3000 to 4999`);
}

function canKeep(): boolean {
  try {
    return !!(globalThis.indexedDB && globalThis.navigator?.locks && globalThis.sessionStorage);
  } catch {
    // Cookies are blocked.
    return false;
  }
}

/** A close frame holds 123 bytes of reason. */
function shorten(reason: string): string {
  return size(reason) > 123 ? reason.slice(0, 41) : reason;
}
