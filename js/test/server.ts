/**
 * A small server of `lifeline.v1` by docs/protocol.md, for one or more clients, without I/O: sessions with their
 * streams, outboxes with their marks, channels with their logs. Strict: what a client must not do throws.
 */

import type { Data, Position } from '../src/codec.js';
import { digest } from '../src/document.js';
import { type ClientFrame, readClientFrame, readEdit, withPayload } from './wire.js';

interface SessionState {
  sid: string;
  tok: string;
  before: string;
  /** What was sent; index 0 is number 1. */
  stream: Data[];
  acknowledged: number;
  channels: Map<string, number>;
  link?: Link | undefined;
}

interface OutboxState {
  gen: number;
  received: number;
  handled: number;
  /** Refused for good; told again until the client has passed them. */
  rejects: { q: number; code: number; reason: string; permanent: boolean }[];
  /** Refused for now: what else comes before it is ignored. */
  awaited?: number | undefined;
  link?: Link | undefined;
}

/** A document: versions, values and who made them, also of keys that have gone. */
interface DocumentState {
  epoch: string;
  version: number;
  entries: Map<string, { version: number; value?: unknown; id: string | undefined }>;
}

export class Link {
  /** For the client. */
  out: Data[] = [];
  closed: number | undefined;
  session: SessionState | undefined;
  outbox: string | undefined;
  /** The last of the stream that went out here. */
  sent = 0;
}

export class Server {
  sessions = new Map<string, SessionState>();
  outboxes = new Map<string, OutboxState>();
  logs = new Map<string, { epoch: string; log: Data[] }>();
  documents = new Map<string, DocumentState>();
  /** Values that clients have set, in the order of the changes. */
  applied: unknown[] = [];
  /** Places in logs that hold changes of documents. */
  #changes = new Set<string>();
  /** What the application has handled, in order. */
  handled: { outbox: string; q: number; data: Data }[] = [];
  /** Received and not handled. */
  queue: { link: Link; outbox: string; q: number; data: Data; edit?: boolean }[] = [];
  heartbeat: { interval: number; timeout: number } | undefined = { interval: 25, timeout: 10 };
  window = 1 << 20;
  maxMessage = 1 << 20;
  /** Refuses HELLO with this code. */
  refuse: (auth: string | undefined) => number | undefined = () => undefined;
  auths: (string | undefined)[] = [];
  hellos = 0;
  #ids = 0;

  connect(): Link {
    return new Link();
  }

  close(link: Link, code: number): void {
    link.closed ??= code;
    this.lost(link);
  }

  lost(link: Link): void {
    link.closed ??= 1006;
    if (link.session?.link === link) link.session.link = undefined;
    const outbox = this.outboxes.get(link.outbox ?? '');
    if (outbox?.link === link) {
      outbox.link = undefined;
      // What waits for the application comes again.
      this.queue = this.queue.filter((item) => item.link !== link);
      outbox.received = outbox.handled;
    }
  }

  /** Forgets everything, as a process without a store does. */
  restart(): void {
    this.sessions.clear();
    this.outboxes.clear();
    this.queue = [];
    for (const log of this.logs.values()) {
      log.epoch = `e${++this.#ids}`;
      log.log = [];
    }
  }

  message(link: Link, data: Data): void {
    if (link.closed !== undefined) return;
    const frame = readClientFrame(data, this.maxMessage, true);
    if (!frame) throw new Error(`unknown frame: ${String(data)}`);
    if (!link.session) {
      if (frame.t !== 'H') throw new Error('the first frame is no H');
      this.#hello(link, frame);
    } else this.#frame(link, link.session, frame);
  }

  /** The application handles the oldest item; `also` goes with its acknowledgement. */
  handle(): boolean {
    const item = this.queue.shift();
    if (!item) return false;
    const { link, outbox: id, q, data } = item;
    const outbox = this.outboxes.get(id)!;
    outbox.handled = q;
    const reason = item.edit && this.#edit(link, data as string);
    if (reason) {
      const reject = { q, code: 409, reason, permanent: true };
      outbox.rejects.push(reject);
      if (outbox.link === link) link.out.push(`N ${JSON.stringify(reject)}`);
    }
    this.handled.push({ outbox: id, q, data });
    if (outbox.link === link) link.out.push(`A ${q}`);
    return true;
  }

  reject(permanent: boolean): void {
    const item = this.queue.shift()!;
    const outbox = this.outboxes.get(item.outbox)!;
    const reject = { q: item.q, code: 7, reason: 'no', permanent };
    item.link.out.push(`N ${JSON.stringify(reject)}`);
    if (permanent) {
      outbox.rejects.push(reject);
      outbox.handled = item.q;
      item.link.out.push(`A ${item.q}`);
    } else {
      outbox.received = item.q - 1;
      outbox.awaited = item.q;
      this.queue = this.queue.filter(({ outbox }) => outbox !== item.outbox);
    }
  }

  send(sid: string, data: Data): void {
    const session = this.sessions.get(sid)!;
    session.stream.push(data);
    this.#pump(session);
  }

  broadcast(data: Data): void {
    for (const sid of this.sessions.keys()) this.send(sid, data);
  }

  publish(name: string, data: Data): void {
    this.#log(name).log.push(data);
    for (const session of this.sessions.values()) this.#pump(session);
  }

  /** Makes a document anew; those who follow it are told. */
  open(name: string): void {
    this.documents.set(name, { epoch: `d${++this.#ids}`, version: 0, entries: new Map() });
    for (const { link, channels } of this.sessions.values()) if (channels.has(name)) link?.out.push(this.#state(name, ''));
  }

  /** The server's own change; no value: the key goes. */
  change(name: string, key: string, value: unknown, id?: string): void {
    const document = this.documents.get(name)!;
    const version = ++document.version;
    document.entries.set(key, { version, value, id });
    const { epoch, log } = this.#log(name);
    this.#changes.add(`${epoch} ${log.length + 1}`);
    this.publish(name, JSON.stringify({ e: document.epoch, n: version, k: key, v: value, id, h: this.#digest(document) }));
  }

  values(name: string): Record<string, unknown> {
    return Object.fromEntries([...this.documents.get(name)!.entries].flatMap(([key, { value }]) => (value === undefined ? [] : [[key, value]])));
  }

  #digest({ entries }: DocumentState): string {
    return digest(new Map([...entries].flatMap(([key, { version, value }]) => (value === undefined ? [] : [[key, [version, '']]]))));
  }

  /** The answer to the V that claims `place`. */
  #state(name: string, place: string): string {
    const document = this.documents.get(name);
    if (!document) return `V ${name} - 0 00000000\n`;
    const own = `${document.epoch} ${document.version} ${this.#digest(document)}`;
    const entries = [...document.entries].flatMap(([key, { version, value }]) => (value === undefined ? [] : [[key, [version, value]]]));
    return `V ${name} ${own}\n${own === place ? '' : JSON.stringify(Object.fromEntries(entries))}`;
  }

  /** Applies an edit; returns where it is in conflict. */
  #edit(link: Link, data: string): string | undefined {
    const { ch, k, v, id, e, if: version, after } = readEdit(data);
    const document = this.documents.get(ch);
    if (!document || !link.session?.channels.has(ch)) throw new Error('an edit without a document or a subscription');
    const before = document.entries.get(k);
    if (before?.id === id) return undefined;
    const there = before && before.value !== undefined;
    const holds = after !== undefined ? before?.id === after : version === 0 ? !there : there && e === document.epoch && before.version === version;
    if (!holds) return `${document.epoch} ${document.version}`;
    this.applied.push(v ?? `gone by ${id}`);
    this.change(ch, k, v, id);
    return undefined;
  }

  #log(name: string): { epoch: string; log: Data[] } {
    const log = this.logs.get(name) ?? { epoch: `e${++this.#ids}`, log: [] };
    this.logs.set(name, log);
    return log;
  }

  #position(name: string, o = this.#log(name).log.length): Position {
    return { e: this.#log(name).epoch, o, mid: o ? `m${o}` : '-' };
  }

  #hello(link: Link, { hello: { auth, resume, outbox } }: ClientFrame & { t: 'H' }): void {
    this.hellos++;
    this.auths.push(auth);
    const refused = this.refuse(auth);
    if (refused) return this.close(link, refused);
    const known = resume && this.sessions.get(resume.sid);
    if (known && resume.tok !== known.tok && resume.tok !== known.before) throw new Error('a token that is neither the present nor the one before');
    const session: SessionState = known ?? { sid: `s${++this.#ids}`, tok: '', before: '', stream: [], acknowledged: 0, channels: new Map() };
    this.sessions.set(session.sid, session);
    if (session.link) this.close(session.link, 4502);
    session.before = known ? resume.tok : '';
    session.tok = `t${++this.#ids}`;
    session.link = link;
    link.session = session;
    let q = 0;
    let rejected: object[] = [];
    if (outbox) {
      const state = this.outboxes.get(outbox.id) ?? { gen: 0, received: 0, handled: 0, rejects: [] };
      if (outbox.gen < state.gen) return this.close(link, 4502);
      this.outboxes.set(outbox.id, state);
      if (state.link) this.close(state.link, 4502);
      link.outbox = outbox.id;
      Object.assign(state, { link, gen: outbox.gen, handled: Math.max(state.handled, outbox.first - 1) });
      state.received = state.handled;
      state.awaited = undefined;
      q = state.handled;
      rejected = state.rejects = state.rejects.filter((reject) => reject.q >= outbox.first);
    }
    link.sent = known ? resume.s : 0;
    const why = resume && !known ? 'restart' : undefined;
    const welcome = { sid: session.sid, tok: session.tok, resumed: !!known, why, s0: link.sent + 1, q, rejected, heartbeat: this.heartbeat, spread: 0.1, limits: { maxMessage: this.maxMessage, window: this.window } };
    link.out.push(`W ${JSON.stringify(welcome)}`);
    const channels = session.channels;
    session.channels = new Map();
    for (const [name, at] of Object.entries(resume?.ch ?? {})) {
      const { epoch, log } = this.#log(name);
      if (known && !channels.has(name)) continue;
      if (at.e === epoch && at.o <= log.length) {
        if (at.o && at.mid !== `m${at.o}`) throw new Error('another id than the message at that offset');
        link.out.push(`K ${JSON.stringify({ ch: name, st: 'ok', ...at })}`);
        session.channels.set(name, at.o);
      } else {
        link.out.push(`K ${JSON.stringify({ ch: name, st: 'gap', ...this.#position(name) })}`);
        link.out.push(`G ${JSON.stringify({ channel: name, from: at.o + 1, why: 'epoch' })}`);
        session.channels.set(name, log.length);
      }
    }
    this.#pump(session);
    link.out.push(`R ${link.sent}`);
  }

  #frame(link: Link, session: SessionState, frame: ClientFrame): void {
    if (link.session?.tok === session.tok) session.before = '';
    const outbox = this.outboxes.get(link.outbox ?? '');
    switch (frame.t) {
      case 'A':
        return this.#acknowledge(link, session, frame.n);
      case 'P':
      case 'D':
        if (frame.s) this.#acknowledge(link, session, frame.s);
        if (!outbox) throw new Error('an item without an outbox');
        if (outbox.awaited !== undefined && frame.n !== outbox.awaited) return;
        outbox.awaited = undefined;
        if (frame.n <= outbox.received) throw new Error(`P ${frame.n} comes twice on one connection`);
        if (frame.n !== outbox.received + 1) throw new Error(`P ${frame.n}: ${outbox.received + 1} is next`);
        outbox.received = frame.n;
        this.queue.push({ link, outbox: link.outbox!, q: frame.n, data: frame.data, edit: frame.t === 'D' });
        if (this.queue.filter((item) => item.link === link).reduce((sum, { data }) => sum + 64 + data.length, 0) > this.window + 64) throw new Error('the window is overrun');
        return;
      case 'E':
        if (!outbox || frame.from !== outbox.received + 1) throw new Error('E does not begin at the next item');
        outbox.received = frame.n;
        if (!this.queue.some(({ link: of }) => of === link)) outbox.handled = frame.n;
        return;
      case 'I':
        link.out.push(`O ${frame.n}`);
        return;
      case 'O':
      case 'T':
        return;
      case 'S':
        session.channels.set(frame.ch, this.#log(frame.ch).log.length);
        link.out.push(`K ${JSON.stringify({ ch: frame.ch, st: 'ok', ...this.#position(frame.ch) })}`);
        return;
      case 'U':
        session.channels.delete(frame.ch);
        link.out.push(`K ${JSON.stringify({ ch: frame.ch, st: 'left' })}`);
        return;
      case 'V':
        if (session.channels.has(frame.ch)) link.out.push(this.#state(frame.ch, frame.place));
        return;
      case 'H':
        throw new Error('a second H');
    }
  }

  #acknowledge(link: Link, session: SessionState, n: number): void {
    if (n > link.sent) throw new Error(`A ${n}: ${link.sent} is the last that was sent`);
    session.acknowledged = Math.max(session.acknowledged, n);
  }

  #pump(session: SessionState): void {
    const { link } = session;
    if (!link) return;
    while (link.sent < session.stream.length) {
      link.sent++;
      link.out.push(withPayload(`M ${link.sent}`, session.stream[link.sent - 1]!));
    }
    for (const [name, from] of session.channels) {
      const { epoch, log } = this.#log(name);
      for (let o = from + 1; o <= log.length; o++) link.out.push(withPayload(`C ${name} ${epoch} ${o} m${o}${this.#changes.has(`${epoch} ${o}`) ? ' d=1' : ''}`, log[o - 1]!));
      session.channels.set(name, log.length);
    }
  }
}
