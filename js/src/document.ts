/**
 * State documents: a map of JSON values on a channel, of which the server's is the authoritative one (docs/protocol.md,
 * section 16; the same rules as in crates/proto). Importing this module gives `Lifeline` its method `document`.
 */

import { escapeName, type Frame, type Reject, size, violation } from './codec.js';
import type { Core, Item, Refused } from './core.js';
import { Lifeline } from './lifeline.js';
import { randomId } from './store.js';

/** What JSON can say. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json | undefined };

/** An edit, or several of one key in a row, that met a change which this client had not seen. */
export interface Conflict {
  key: string;
  /** What the last of them set; `undefined`: the key was to go. */
  mine: Json | undefined;
  /** The server's value; `undefined`: there is none. */
  theirs: Json | undefined;
  /** The key's version at the server; 0: it does not exist. */
  version: number;
  /** Counts the conflicts of this key in a row. */
  attempt: number;
  /** What holds: the server's value, the client's edit (made again), a later edit of the key, or `asked`: the option `conflict` says. */
  resolution: 'server' | 'client' | 'edited' | 'asked';
}

export interface DocumentOptions {
  /**
   * What becomes of an edit that is in conflict: `serverWins` (default) drops it, `clientWins` makes it again; a
   * function returns the value to set, or nothing for the server's. After five conflicts of a key in a row the server
   * wins.
   */
  conflict?: 'serverWins' | 'clientWins' | ((conflict: Conflict) => Json | undefined);
}

export interface DocumentEvents {
  /** A key has another value; `undefined`: it has gone. `local`: by an edit made here. */
  change: { key: string; value: Json | undefined; local: boolean };
  conflict: Conflict;
  /** The server does not take an edit, or (`code` 0) the outbox has given it up. */
  refused: { key: string; value: Json | undefined; code: number; reason: string };
  /** What is known is the server's state: once a connection. */
  synced: object;
  /** No own edit waits any more. */
  settled: object;
}

type Listener<K extends keyof DocumentEvents> = (event: DocumentEvents[K]) => unknown;

export interface LifelineDocument {
  readonly channel: string;
  /** A copy of the value, own edits included; `undefined`: there is none. */
  get(key: string): Json | undefined;
  /** Sets a key, here at once, and at the server unless somebody else has changed it meanwhile. Throws as `send`. */
  set(key: string, value: Json): void;
  delete(key: string): void;
  keys(): string[];
  /** The version of a key that the server confirmed, 0: there is none; without `key` the document's. */
  version(key?: string): number;
  /** The server's state is known, and nothing newer is known to be missing. */
  readonly synced: boolean;
  /** Own edits that are not known to be in the server's state. */
  readonly pending: number;
  /** Calls `listener` for each event of that name; returns what takes it off again. */
  on<K extends keyof DocumentEvents>(name: K, listener: Listener<K>): () => void;
  off<K extends keyof DocumentEvents>(name: K, listener: Listener<K>): void;
}

declare module './lifeline.js' {
  interface Lifeline {
    /** The document on `channel`, which is subscribed to. The same one for the same channel; `options` are the first's. */
    document(channel: string, options?: DocumentOptions): LifelineDocument;
  }
}

/** Which state somebody has. */
interface Place {
  epoch: string;
  version: number;
}

/** An own edit that is not known to be in the confirmed state. */
interface Pending {
  id: string;
  key: string;
  /** JSON; nothing: the key goes. */
  text: string | undefined;
  /** The own one of the same key on whose result it stands. */
  after: string | undefined;
  item: Item;
  /** Answers to V that had come when it was made. */
  born: number;
  /** The server has applied it; how many V were sent then. */
  applied?: number;
  /** It was in conflict at this version, and how many V were sent then. */
  refused?: [epoch: string, version: number, asked: number];
}

const CONFLICT = 409;
const MAX_ATTEMPTS = 5;
const MAX_KEY = 255;
const MAX_DEPTH = 64;

const hash = (key: string, version: number) => new TextEncoder().encode(`${key}\0${version}`).reduce((hash, byte) => Math.imul(hash ^ byte, 0x1000193), 0x811c9dc5);

const hex = (sum: number) => (sum >>> 0).toString(16).padStart(8, '0');
/** The sum of a state, which its digest is in hexadecimal digits. */
const total = (entries: Entries) => [...entries].reduce((sum, [key, [version]]) => (sum + hash(key, version)) | 0, 0);
export const digest = (entries: Entries) => hex(total(entries));

const parse = (text: string | undefined) => (text == null ? undefined : (JSON.parse(text) as Json));
const isCount = (value: unknown, least = 1) => Number.isSafeInteger(value) && (value as number) >= least;
const depth = (value: unknown): number => (value && typeof value === 'object' ? 1 + Object.values(value).reduce<number>((most, each) => Math.max(most, depth(each)), 0) : 0);

interface Delta {
  e: string;
  n: number;
  k: string;
  v?: Json;
  id?: string;
  h: string;
}

/** The payload of C with `d=1`; nothing: it is none. */
export function readDelta(text: unknown): Delta | undefined {
  try {
    const delta = JSON.parse(text as string) as Delta;
    const { e, n, k, h } = delta;
    return isCount(n) && typeof k === 'string' && /^[\w-]{1,22}$/.test(e) && /^[\da-f]{8}$/.test(h) ? delta : undefined;
  } catch {
    return undefined;
  }
}

export type Entries = Map<string, [version: number, text: string]>;

/** A snapshot, the payload of V; nothing: it is none. */
export function readSnapshot(text: string): Entries | undefined {
  try {
    const entries = JSON.parse(text) as Record<string, [number, Json]>;
    if (Array.isArray(entries)) return undefined;
    return new Map(
      Object.entries(entries).map(([key, [version, value]]) => {
        if (!isCount(version) || value === undefined) throw RangeError(key);
        return [key, [version, JSON.stringify(value)]];
      }),
    );
  } catch {
    return undefined;
  }
}

/** V of the server; throws where it is none. */
export function readState(raw: string | ArrayBuffer): { channel: string; place: Place; snapshot: string } | undefined {
  const text = typeof raw === 'string' ? raw : String.fromCharCode(...new Uint8Array(raw, 0, Math.min(2, raw.byteLength)));
  if (!/^V(?=[ \n]|$)/.test(text)) return undefined;
  const end = text.indexOf('\n');
  const [all, name = '', epoch = '', digits = ''] = /^V ([!-~]+) ([\w-]{1,22}) (0|[1-9]\d*) [\da-f]{8}(?: [!-<>-~]+=[!-~]*)*$/.exec(text.slice(0, Math.max(end, 0))) ?? [];
  const version = +digits;
  if (!all || typeof raw !== 'string' || end > 1024 || !isCount(version, 0)) throw violation('bad V');
  const channel = decodeURIComponent(name);
  escapeName(channel);
  return { channel, place: { epoch, version }, snapshot: text.slice(end + 1) };
}

/** What it is built on, for one client. */
export interface Tools {
  core: Core;
  act: <T>(input: (now: number) => T) => T;
  queue: { push: (tell: () => void) => unknown };
  newId: () => string;
  /** Whether the outbox outlives the page. */
  durable: () => boolean;
}

/** The documents of one client: told what its core does. */
export function createDocuments({ core, act, queue, newId, durable }: Tools) {
  type Replica = ReturnType<typeof createReplica>;
  const replicas = new Map<string, Replica>();
  /** Edits that an earlier page has left, of which it had not told the conflict. */
  const left = new Set<Item>();
  let ready = core.state() === 'connected';

  function createReplica(channel: string, conflict: DocumentOptions['conflict'] = 'serverWins') {
    const name = escapeName(channel);
    const listeners: { [K in keyof DocumentEvents]?: Set<Listener<K>> } = {};
    let place: Place = { epoch: '-', version: 0 };
    let confirmed: Entries = new Map();
    let sum = 0;
    const pending: Pending[] = [];
    const attempts = new Map<string, number>();
    let subscribed = ready && !!core.saved()?.ch[channel];
    /** A V is to be sent, and one is under way. */
    let wanted = subscribed;
    let asking = false;
    /** Told on this connection. */
    let synced = false;
    /** The state is not what it should be. */
    let suspect = false;
    /** The last delta since the last V went out. */
    let newest: Delta | undefined;
    /** V that were sent, and answered. */
    let asked = 0;
    let answered = 0;
    /** The key whose conflict the application looks at. */
    let merging: string | undefined;

    /** The last own edit of a key. */
    const newestOf = (key: string) => pending.filter((edit) => edit.key === key).at(-1);
    const look = (key: string) => {
      const edit = newestOf(key);
      return edit ? edit.text : confirmed.get(key)?.[1];
    };

    /** What the event says is asked for when it is told. */
    const emit = <K extends keyof DocumentEvents>(name: K, value: () => DocumentEvents[K], then?: (event: DocumentEvents[K]) => void) =>
      queue.push(() => {
        const event = value();
        for (const listener of [...(listeners[name] ?? []), then]) {
          try {
            listener?.(event);
          } catch (error) {
            setTimeout(() => {
              throw error;
            });
          }
        }
      });

    /** Changes something, and tells which of these keys have another value then. */
    function touch(keys: Iterable<string>, local: boolean, change: () => void): void {
      const before = [...keys].map((key) => [key, look(key)] as const);
      change();
      for (const [key, text] of before) if (look(key) !== text) emit('change', () => ({ key, value: parse(look(key)), local }));
    }

    /** Takes an edit out. */
    function take(edit: Pending): void {
      const { item } = edit;
      pending.splice(pending.indexOf(edit), 1);
      withdraw(item);
      left.delete(item);
      core.forget(-Math.abs(item.q), false);
      if (!pending.length) emit('settled', () => ({}));
    }

    /** It is in the confirmed state. */
    function settled(edit: Pending): void {
      take(edit);
      attempts.delete(edit.key);
    }

    function make(key: string, text: string | undefined, local: boolean): void {
      const before = newestOf(key);
      const version = confirmed.get(key)?.[0];
      const id = newId();
      const condition = before ? { after: before.id } : version ? { e: place.epoch, if: version } : { if: 0 };
      const head = JSON.stringify({ ch: channel, k: key }).slice(0, -1);
      act((now) => {
        core.send(now, `${head}${text == null ? '' : `,"v":${text}`},${JSON.stringify({ id, ...condition }).slice(1)}`, Infinity, true);
        add({ id, key, text, after: before?.id, item: core.items.at(-1)!, born: answered }, local);
      });
    }

    function add(edit: Pending, local: boolean): void {
      touch([edit.key], local, () => {
        pending.push(edit);
        // What an earlier page has left goes before what was made while that was not known.
        pending.sort((a, b) => a.item.q - b.item.q);
      });
    }

    /** An edit of an earlier page, or of a tab that is gone. */
    function restore(item: Item): Pending {
      const { k: key, v, id, after } = JSON.parse(item.data as string) as { k: string; v?: Json; id: string; after?: string };
      const edit: Pending = { id, key, text: JSON.stringify(v), after, item, born: answered };
      add(edit, true);
      return edit;
    }

    function edit(key: string, text: string | undefined): void {
      if (!key || size(key) > MAX_KEY || /\p{Cs}/u.test(key)) throw RangeError(`a key has 1 to ${MAX_KEY} bytes`);
      if (merging !== key) attempts.delete(key);
      make(key, text, true);
    }

    function replace(to: Place, entries: Entries): void {
      touch(new Set([...confirmed.keys(), ...entries.keys()]), false, () => {
        place = to;
        confirmed = entries;
        sum = total(entries);
      });
    }

    /** Of the edits up to item `q` the server has applied what it did not refuse. */
    function applied(q: number): void {
      for (const edit of pending) {
        if (edit.refused || edit.applied != null || edit.item.q > q) continue;
        edit.applied = asked;
        // The answer that came meanwhile may have it, and then no delta follows.
        wanted ||= answered > edit.born;
      }
    }

    /** Takes an edit out, and those that stand on it: none of them can hold. Returns what the last one set. */
    function drop(edit: Pending): string | undefined {
      take(edit);
      const next = pending.find(({ after }) => after === edit.id);
      return next ? drop(next) : edit.text;
    }

    /** Conflicts of which the cause is known now. */
    function resolve(): void {
      let edit;
      while ((edit = pending.find(({ refused: [epoch, version, number] = ['', 0, Infinity] }) => answered > number || (epoch === place.epoch && version <= place.version)))) {
        const first = edit;
        const { key } = first;
        const attempt = (attempts.get(key) ?? 0) + 1;
        touch([key], false, () => {
          const text = drop(first);
          let resolution: Conflict['resolution'] = conflict === 'serverWins' || attempt > MAX_ATTEMPTS ? 'server' : conflict === 'clientWins' ? 'client' : 'asked';
          if (resolution === 'server') attempts.delete(key);
          else attempts.set(key, attempt);
          emit(
            'conflict',
            () => {
              // As it is when it is told: deltas may have come behind it, and the key may have been edited again.
              const [version = 0, theirs] = confirmed.get(key) ?? [];
              if (newestOf(key) && resolution === 'asked') resolution = 'edited';
              return { key, mine: parse(text), theirs: parse(theirs), version, attempt, resolution };
            },
            (event) => {
              if (typeof conflict !== 'function' || resolution !== 'asked') return;
              merging = key;
              try {
                const value = conflict(event);
                // A listener, or the function itself, may have edited it.
                if (!newestOf(key) && value !== undefined) self.set(key, value);
              } finally {
                merging = undefined;
              }
            },
          );
          if (resolution !== 'client') return;
          try {
            make(key, text, false);
          } catch (error) {
            emit('refused', () => ({ key, value: parse(text), code: 0, reason: String(error) }));
          }
        });
      }
    }

    function verify(): void {
      // A conflict with an epoch that is no more, or not known yet, is not reached by deltas.
      wanted ||= pending.some(({ refused: [epoch, , number] = [place.epoch, 0, 0] }) => epoch !== place.epoch && number === asked);
      if (!ready || !subscribed || !wanted || asking) return;
      wanted = false;
      asking = true;
      asked++;
      newest = undefined;
      core.say(`V ${name} ${suspect ? '- 0 00000000' : `${place.epoch} ${place.version} ${hex(sum)}`}`);
    }

    function delta(data: unknown): void {
      const delta = readDelta(data);
      if (!delta) {
        suspect = wanted = true;
        return;
      }
      newest = delta;
      const { e, n, k, v, id, h } = delta;
      // Another document, from its beginning.
      if (e !== place.epoch && n === 1) replace({ epoch: e, version: 0 }, new Map());
      const own = pending.find((edit) => edit.id === id);
      const same = e === place.epoch;
      const next = same && n === place.version + 1;
      if (!next && !(same && n <= place.version)) {
        wanted = true;
        // It stays on top until the state has it.
        if (own) own.applied ??= asked;
        return;
      }
      touch([k], false, () => {
        if (own) settled(own);
        if (!next) return;
        const [before] = confirmed.get(k) ?? [];
        if (before) sum -= hash(k, before);
        confirmed.delete(k);
        if (v !== undefined) {
          confirmed.set(k, [n, JSON.stringify(v)]);
          sum += hash(k, n);
        }
        place = { epoch: e, version: n };
        if (hex(sum) !== h) suspect = wanted = true;
      });
      resolve();
    }

    function state(to: Place, snapshot: string): void {
      const was = asking;
      asking = false;
      answered = asked;
      if (to.epoch === '-') {
        // There is none; the server tells when there is one.
        wanted ||= was && !!newest;
        resolve();
        return;
      }
      if (snapshot && (suspect || to.epoch !== place.epoch || to.version >= place.version)) {
        const entries = readSnapshot(snapshot);
        if (!entries) {
          wanted = true;
          return;
        }
        replace(to, entries);
      }
      suspect = false;
      // What was applied before the question is in the answer.
      for (const edit of [...pending]) if (edit.applied != null && edit.applied < asked) touch([edit.key], false, () => settled(edit));
      if (newest && (newest.e !== place.epoch || newest.n > place.version)) wanted = true;
      else if (!synced) {
        synced = true;
        emit('synced', () => ({}));
      }
      resolve();
    }

    /** An edit will not be made, of this page, an earlier one or a tab that is gone. `code` 0: the outbox gave it up. */
    function refused(item: Item, code: number, reason: string): void {
      const edit = pending.find(({ item: { data } }) => data === item.data) ?? restore(item);
      const [, epoch, version] = (code === CONFLICT && /^(\S+) (\d+)$/.exec(reason)) || [];
      if (epoch) {
        edit.refused = [epoch, Number(version), asked];
        // Until the application knows.
        if (withdraw(item) && durable()) core.store({ ...item, q: -item.q, why: reason });
        return resolve();
      }
      touch([edit.key], false, () => {
        const text = drop(edit);
        emit('refused', () => ({ key: edit.key, value: parse(text), code, reason }));
      });
    }

    const self: LifelineDocument = {
      channel,
      get: (key) => parse(look(key)),
      set(key, value) {
        const text = JSON.stringify(value) as string | undefined;
        if (text == null) throw TypeError('no JSON');
        if (depth(value) > MAX_DEPTH) throw RangeError(`nested deeper than ${MAX_DEPTH}`);
        edit(key, text);
      },
      delete: (key) => edit(key, undefined),
      keys: () => [...new Set([...confirmed.keys(), ...pending.map(({ key }) => key)])].filter((key) => look(key) != null),
      version: (key) => (key == null ? place.version : (confirmed.get(key)?.[0] ?? 0)),
      get synced() {
        return core.state() === 'connected' && synced && !wanted && !asking;
      },
      get pending() {
        return pending.length;
      },
      on(name, listener) {
        (listeners[name] ??= new Set<never>() as never).add(listener);
        return () => self.off(name, listener);
      },
      off: (name, listener) => void listeners[name]?.delete(listener),
    };

    return {
      self,
      verify,
      delta,
      state,
      refused,
      applied,
      restore,
      has: (item: Item) => pending.some((edit) => edit.item === item),
      subscribed(status: string): void {
        const there = status !== 'denied' && status !== 'left';
        wanted ||= there && (status !== 'ok' || !subscribed);
        subscribed = there;
        asking &&= there;
      },
      missed(): void {
        wanted = true;
      },
      /** Another connection begins. */
      lost(): void {
        subscribed = wanted = asking = synced = false;
        newest = undefined;
      },
    };
  }

  const channelOf = (item: Item) => {
    try {
      return (JSON.parse(item.data as string) as { ch: string }).ch;
    } catch {
      return '';
    }
  };
  const all = (input: (replica: Replica) => void) => replicas.forEach(input);

  /** Takes an item out of the outbox; whether it was there. */
  function withdraw(item: Item): boolean {
    const index = core.items.indexOf(item);
    if (index < 0) return false;
    core.remove(index, 1);
    core.forget(item.q, false);
    return true;
  }

  /** Edits that an earlier page has left. */
  function adopt(): void {
    for (const item of [...left, ...core.items]) {
      const replica = item.edit && replicas.get(channelOf(item));
      if (!replica || replica.has(item)) continue;
      if (item.why) replica.refused(item, CONFLICT, item.why);
      else replica.restore(item);
    }
  }

  /** The server refused an item for good. Without its document `reject` tells. */
  function refuse({ q, code = 0, reason = '' }: Reject): void {
    const item = core.items.find((item) => item.q === q && item.edit);
    const replica = item && replicas.get(channelOf(item));
    replica?.applied(q - 1);
    replica?.refused(item!, code, reason);
  }

  function hear(frame: Frame | undefined, raw: string | ArrayBuffer): void {
    switch (frame?.t) {
      case undefined: {
        const { channel, place, snapshot } = readState(raw) ?? {};
        if (place) replicas.get(channel!)?.state(place, snapshot!);
        return;
      }
      case 'W':
        ready = false;
        all((replica) => replica.lost());
        for (const reject of frame.rejected ?? []) if (reject.permanent) refuse(reject);
        return all((replica) => replica.applied(frame.q ?? 0));
      case 'A':
        return all((replica) => replica.applied(frame.n));
      case 'M':
        return all((replica) => replica.applied(frame.q));
      case 'N':
        if (frame.permanent) refuse(frame);
        return;
      case 'R':
        ready = true;
        return all((replica) => replica.missed());
      case 'K':
        return replicas.get(frame.ch)?.subscribed(frame.st);
      case 'G':
        return replicas.get(frame.channel!)?.missed();
      case 'C':
        if (frame.change) replicas.get(frame.ch)?.delta(frame.data);
    }
  }

  return {
    tap(frame: Frame | undefined, raw: string | ArrayBuffer): void {
      hear(frame, raw);
      all((replica) => replica.verify());
    },
    /** What an earlier page has left is known. */
    restore(items: Item[] = []): void {
      for (const item of items) if (item.why) left.add(item);
      adopt();
    },
    /** An edit, also of a tab that is gone, was refused or given up. */
    refused({ data, edit }: Refused, code: number, reason: string): void {
      const item = { q: 0, data, edit, size: 0, expires: 0 } as Item;
      if (edit) replicas.get(channelOf(item))?.refused(item, code, reason);
    },
    open(channel: string, options: DocumentOptions = {}): LifelineDocument {
      let replica = replicas.get(channel);
      if (!replica) {
        replicas.set(channel, (replica = createReplica(channel, options.conflict)));
        adopt();
      }
      const { self, verify } = replica;
      act((now) => {
        core.subscribe(now, channel);
        verify();
      });
      return self;
    },
  };
}

const documents = new WeakMap<Lifeline, ReturnType<typeof createDocuments>>();

Lifeline.prototype.document = function (channel, options) {
  let of = documents.get(this);
  if (!of) {
    const [core, act, queue, ready] = this.hook;
    const created = (of = createDocuments({ core, act, queue, newId: () => randomId().slice(0, 22), durable: () => this.stats.durable }));
    documents.set(this, created);
    core.tap(created.tap);
    void ready.then((items) => act(() => created.restore(items)));
    this.on('reject', (event) => created.refused(event, event.code, event.reason));
    this.on('overflow', (event) => created.refused(event, 0, event.why));
  }
  return of.open(channel, options);
};
