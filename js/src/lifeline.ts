/** The client as applications use it: the rules of core.ts with a WebSocket, timers, a store and the page's events. */

import type { ReconnectOptions } from './backoff.js';
import { type Core, createCore, type Events, type Host, type Item, type Kept, type OutboxOptions, type State } from './core.js';
import { openStore, randomId, type Store } from './store.js';

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
  connectTimeout?: number | undefined;
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

type Listener<K extends keyof Events> = (event: Events[K]) => unknown;

/** The option under which an instance gets the store of a tab that is gone. */
const ORPHAN = Symbol();
type Internal = LifelineOptions & { [ORPHAN]?: Store };

/** Several clients of one scope in one page are told apart by a number; those in use. */
const slots = new Set<string>();
/** Between the end of a batch of messages and its acknowledgement. */
const BATCH = 20;
/** How often to look for tabs that are gone. */
const LOOK = 10000;
const POLL_BUFFER = 50;

export class Lifeline {
  /** Where it connects to. */
  declare readonly url: string;
  /** Connects, where the option `connect` was false. */
  declare connect: () => void;
  /**
   * Takes a message, which leaves when it can; connected or not. Returns its number: 1, 2, 3, … `flush()` tells
   * when all have arrived, the events `reject` and `overflow` which never will. `ttl` in ms.
   */
  declare send: (data: string | ArrayBuffer | ArrayBufferView, options?: { ttl?: number }) => number;
  /** Whether everything sent was acknowledged (plain WebSocket: has left); false after `timeout` ms or at the end. */
  declare flush: (timeout?: number) => Promise<boolean>;
  declare subscribe: (channel: string) => void;
  declare unsubscribe: (channel: string) => void;
  /** Calls `listener` for each event of that name; returns what takes it off again. */
  declare on: <K extends keyof Events>(name: K, listener: Listener<K>) => () => void;
  declare off: <K extends keyof Events>(name: K, listener: Listener<K>) => void;
  /** Connects now instead of after the delay; where there is a connection, finds out soon whether it is alive. */
  declare wake: () => void;
  /** Drops the connection, if there is one, and connects again at once. */
  declare reconnect: () => void;
  /** Asks the option `token` and tells the server, without a new connection. */
  declare refresh: () => Promise<void>;
  /** Ends the client and its session. What was not acknowledged goes to `overflow`, or stays in the store. */
  declare close: (code?: number, reason?: string) => void;
  declare readonly state: State;
  declare readonly stats: Stats;
  /** The subprotocol that the server selected, without `lifeline.v1`. */
  declare readonly protocol: string;
  /** @internal For document.ts: the core, what inputs go through, what is to be told, and later what an earlier page has left. */
  declare readonly hook: readonly [Core, <T>(input: (now: number) => T) => T, (() => void)[], Promise<Item[] | undefined>];

  /** `url`: ws, wss, http or https, also relative to the page. */
  constructor(url: string | URL, options: LifelineOptions = {}) {
    const parsed = new URL(url, globalThis.document?.baseURI);
    parsed.protocol = parsed.protocol.replace('http', 'ws');
    parsed.hash = '';
    const { href } = parsed;
    const { token, protocols = [], name = '', storage, durability = 'relaxed' } = options;
    const orphan = (options as Internal)[ORPHAN];

    let socket: WebSocket | undefined;
    /** Counts sockets. */
    let sockets = 0;
    let auth: string | undefined;
    const listeners: { [K in keyof Events]?: Set<Listener<K>> } = {};
    const page = new AbortController();
    let waiting: ((all: boolean) => void)[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    let offset = 0;
    let closed = false;
    /** For the application. */
    const queue: (() => void)[] = [];
    let pumping = false;
    // What is to be kept, and what was handled since.
    let store: Store | undefined;
    let put: Item[] = [];
    let forgotten: [number, boolean][] = [];
    let handled = 0;
    let count = 0;
    let dirty = false;
    let batch: ReturnType<typeof setTimeout> | undefined;
    let committing: Promise<unknown> | undefined;
    let slot = '';
    let looking: ReturnType<typeof setInterval> | undefined;
    let adopted: Lifeline | undefined;

    /** Monotonic, and counts the time that the machine sleeps. */
    const clock = () => {
      const now = Date.now();
      offset = Math.max(offset, last - now);
      return (last = now + offset);
    };

    const emit = <K extends keyof Events>(name: K, value: Events[K]) => {
      for (const listener of [...(listeners[name] ?? [])]) {
        try {
          listener(value);
        } catch (error) {
          // As the browser does it: the others go on, window.onerror is told.
          setTimeout(() => {
            throw error;
          });
        }
      }
    };
    const fail = (what: string, error: unknown) => emit('error', Error(`${what}: ${error}`));

    const detach = () => {
      const old = socket;
      socket = undefined;
      sockets++;
      if (old) old.onopen = old.onmessage = old.onclose = null;
      return old;
    };

    const host: Host = {
      async dial(plain, fresh, elsewhere) {
        detach();
        const mine = sockets;
        let credentials = auth;
        try {
          // Also: not before this function has returned.
          credentials = await (token && (fresh || auth == null) ? token() : auth);
        } catch (error) {
          if (mine === sockets) act((now) => core.lost(now, 0, 'no token'));
          return fail('no token', error);
        }
        if (mine !== sockets) return;
        auth = credentials;
        try {
          const { WebSocket = globalThis.WebSocket } = options;
          const mine = (socket = new WebSocket(elsewhere ?? href, [...(plain ? [] : ['lifeline.v1']), ...[protocols].flat()]));
          mine.binaryType = 'arraybuffer';
          mine.onopen = () => act((now) => core.opened(now, mine.protocol === 'lifeline.v1', auth));
          mine.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => act((now) => core.message(now, data));
          mine.onclose = ({ code, reason }) => {
            detach();
            act((now) => core.lost(now, code, reason));
          };
          // The close says it all, but Node's ws throws what nobody listens to.
          mine.onerror = () => undefined;
        } catch (error) {
          // Not allowed here, e.g. ws: from a page of https:.
          act((now) => core.lost(now, 0, String(error), true));
        }
      },
      drop(code, reason) {
        const old = detach();
        try {
          old?.close(code, reason);
        } catch {
          // Not a code or reason that a page may close with.
          old?.close();
        }
      },
      write(data) {
        socket?.send(data);
      },
      store(item) {
        put.push(item);
      },
      forget(...what) {
        if (store) forgotten.push(what);
      },
      rekey() {
        dirty = true;
        return store?.rekey() ?? randomId();
      },
      emit(name, value, numbers) {
        queue.push(() => {
          emit(name, value);
          dirty = true;
          if (!numbers) return;
          const [stream, sequence] = numbers;
          core.handled(stream, sequence);
          if (!stream) return;
          handled = sequence;
          if (++count > 31) endBatch();
        });
      },
      ended() {
        closed = true;
        page.abort();
        adopted?.close();
        void ready.then(leave);
      },
    };

    const durable = !!(orphan ?? (storage !== 'memory' && globalThis.indexedDB && globalThis.navigator?.locks));
    const core = createCore({ ...options, durable }, host);

    const act = <T>(input: (now: number) => T): T => {
      try {
        return input(clock());
      } finally {
        pump();
      }
    };

    const pump = () => {
      if (pumping) return;
      pumping = true;
      for (let tell; (tell = queue.shift()); ) tell();
      pumping = false;
      clearTimeout(timer);
      const writing = core.isWriting();
      const delay = Math.min(core.deadline() - clock(), writing ? POLL_BUFFER : Infinity);
      if (delay < Infinity) {
        timer = setTimeout(
          () =>
            act((now) => {
              core.timeout(now);
              if (writing) core.buffered(now, socket?.bufferedAmount ?? 0);
            }),
          Math.min(delay, 0x7fffffff),
        );
      }
      if (put.length) commit();
      else if ((dirty || forgotten.length) && !batch) batch = setTimeout(endBatch, BATCH);
      if (core.isReady() && (!core.count() || closed)) {
        for (const resolve of waiting) resolve(!core.count());
        waiting = [];
      }
    };

    /** What was handled is saved, then acknowledged. */
    const endBatch = () => {
      clearTimeout(batch);
      batch = undefined;
      count = 0;
      if (store) return commit();
      dirty = false;
      core.settled(handled);
    };

    /** One transaction at a time; what comes meanwhile goes into the next one. */
    const commit = () => {
      if (!store || committing || closed) return;
      const kept = store.commit(put, forgotten, core.saved());
      const [{ next }, s] = [store.tab, handled];
      put = [];
      forgotten = [];
      dirty = false;
      committing = kept
        .catch((error: unknown) => {
          if (closed) return;
          // Going on without is better than standing still.
          store = undefined;
          core.forgo();
          fail('not kept', error);
        })
        .then(() => {
          committing = undefined;
          if (closed) return;
          act((now) => {
            core.settled(s);
            core.stored(now, next - 1);
          });
        });
    };

    /** The end: keeps what is left and lets go of the store. */
    const leave = async () => {
      clearInterval(looking);
      await committing;
      await store?.commit(put, forgotten, undefined).catch(() => undefined);
      await store?.close(!core.count());
      slots.delete(slot);
    };

    /** Sends what tabs that are gone have left, one tab after the other, on a connection of its own. */
    const adopt = async () => {
      const orphan = !adopted && core.isOpen() && (await store?.adopt());
      if (!orphan) return;
      const internal: Internal = { ...options, mode: core.mode(), connect: true, [ORPHAN]: orphan };
      const other = (adopted = new Lifeline(href, internal));
      for (const name of ['reject', 'overflow', 'error'] as const) other.on(name, (value) => emit(name, value));
      // What the server does not let us send is not tried again by this page.
      if (await other.flush()) adopted = undefined;
      other.close();
    };

    const open = async () => {
      try {
        if (orphan) store = orphan;
        else if (durable) {
          const scope = `${name}@${parsed.host}${parsed.pathname}`;
          let count = 0;
          while (slots.has((slot = `${scope} ${count}`))) count++;
          slots.add(slot);
          store = await openStore(scope, count, durability);
          looking = setInterval(() => void adopt().catch(() => undefined), LOOK);
        }
      } catch (error) {
        core.forgo();
        fail('not kept', error);
      }
      const tab: Kept = store?.tab ?? { outbox: randomId(), gen: 1, next: 1 };
      // An orphan's session is not resumed: nobody is there for its messages.
      if (orphan) delete tab.saved;
      core.restore(tab, store?.items);
      pump();
      return store?.items;
    };

    this.connect = () =>
      void ready.then(() => {
        if (!closed) act(core.connect);
      });
    this.send = (data, { ttl } = {}) => {
      // Also a TypeError for what is none of these.
      const copy = typeof data === 'string' ? data : new Uint8Array((ArrayBuffer.isView(data) ? new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength) : data).slice(0));
      return act((now) => core.send(now, copy, ttl));
    };
    this.flush = (timeout) =>
      new Promise((resolve) => {
        waiting.push(resolve);
        if (timeout != null) setTimeout(resolve, timeout, false);
        pump();
      });
    this.subscribe = (channel) => act((now) => core.subscribe(now, channel));
    this.unsubscribe = (channel) => act(() => core.unsubscribe(channel));
    this.on = (name, listener) => {
      ((listeners[name]) ??= new Set<never>() as never).add(listener);
      return () => this.off(name, listener);
    };
    this.off = (name, listener) => void listeners[name]?.delete(listener);
    const wake = (this.wake = () => act(core.wake));
    const reconnect = (this.reconnect = () =>
      act((now) => {
        core.reconnect(now);
        if (!core.isOpen()) core.wake(now);
      }));
    this.refresh = async () => {
      auth = await token?.();
      const fresh = auth;
      if (fresh != null) act(() => core.refresh(fresh));
    };
    this.close = (code = 1000, reason = '') => {
      act(() => core.close(code, reason));
    };
    const ready = open();
    Object.defineProperties(this, {
      url: { value: href },
      state: { get: core.state },
      stats: { get: () => ({ ...core.stats(), durable: !!store }) },
      hook: { value: [core, act, queue, ready] },
      protocol: { get: () => socket?.protocol.replace('lifeline.v1', '') ?? '' },
    });

    const { document } = globalThis;
    const listen = (target: Partial<EventTarget> | undefined, name: string, listener: () => void) => target?.addEventListener?.(name, listener, page);
    // A plain connection cannot be asked whether it survived.
    listen(globalThis, 'online', () => (core.isLifeline() ? wake : reconnect)());
    listen(globalThis, 'offline', () => act(core.doubt));
    listen(globalThis, 'pageshow', wake);
    listen(document, 'resume', wake);
    listen(document, 'visibilitychange', () => (document.hidden ? endBatch : wake)());
    if (options.connect !== false) this.connect();
  }
}
