/** A client's side of a session over all its connections: docs/protocol.md, as in crates/proto/src/v1/client.rs. */

import { Backoff, type ReconnectOptions } from './backoff.js';
import { type Data, decode, escapeName, item, type Frame, type Position, type Reject, Violation } from './codec.js';

/** What is kept for the session to go on after a reload. */
export interface Saved {
  sid: string;
  tok: string;
  /** The last message of the stream that was handled. */
  s: number;
  /** Behind the last message of each channel. */
  ch: Record<string, Position>;
}

/** Which items the outbox has. */
export interface Range {
  id: string;
  gen: number;
  first: number;
  next: number;
}

export interface Gap {
  /** Null: messages that were sent to this session only. */
  channel: string | null;
  from: number;
  /** Missing where nobody knows the end. */
  to: number | undefined;
  why: string;
}

/** What happened; the driver acts on it or tells the application. */
export type SessionEvent =
  | { type: 'welcomed'; resumed: boolean; why: string | undefined; spread: number; session: string }
  | { type: 'message'; channel: string | null; sequence: number; data: Data; stream: number }
  | { type: 'snapshot'; channel: string; sequence: number; data: Data }
  | { type: 'gap'; gap: Gap; stream: number }
  | { type: 'subscription'; channel: string; status: string }
  | { type: 'acknowledged'; q: number }
  | { type: 'rejected'; reject: Reject }
  | { type: 'resend'; q: number }
  | { type: 'diverged'; q: number }
  | { type: 'answered'; n: number }
  | { type: 'replayed' }
  | { type: 'leave'; url: string | undefined };

interface Channel {
  /** The application asked for it; else the server made it. */
  wanted: boolean;
  /** The application left it; the server has not confirmed. */
  leaving: boolean;
  /** Nothing: the server has not confirmed. */
  at?: Position | undefined;
  /** Where it goes on once the gap, which comes next, is told. */
  behind?: Position | undefined;
}

/** What an item counts against the window beside its payload. */
const ITEM_COST = 64;
const ACK_AFTER = { messages: 32, bytes: 65536, ms: 1000 };

export class Session {
  phase: 'offline' | 'greeting' | 'open' = 'offline';
  heartbeat: { interval: number; timeout: number } | undefined;
  limits = { maxMessage: Infinity, window: 0 };
  counters = { duplicates: 0, gaps: 0, rejected: 0, resumed: 0 };
  events: SessionEvent[] = [];
  /** Frames to write. */
  transmit: Data[] = [];
  /** The stream is handled up to here. */
  handled = 0;

  #random: () => number;
  #retry: Backoff;
  #retryOptions: ReconnectOptions;
  #sid = '';
  #tok = '';
  /** Counts sessions, so that what belongs to a lost one is not acknowledged to the next. */
  #stream = 0;
  #received = 0;
  #channels = new Map<string, Channel>();
  #range: Range | undefined;
  #next = 1;
  #acknowledged = 0;
  #highest = 0;
  #flying: [q: number, cost: number][] = [];
  #cost = 0;
  #pausedUntil: number | undefined;
  #leave: { at: number; url: string | undefined } | undefined;
  // Acknowledgements of the stream: what may be told, what was, and what waits since when.
  #mark = 0;
  #told = 0;
  #ack = { messages: 0, bytes: 0, since: undefined as number | undefined, wanted: false };

  constructor(random: () => number, retry: ReconnectOptions = {}) {
    this.#random = random;
    this.#retryOptions = retry;
    this.#retry = new Backoff(retry, random);
  }

  restore({ sid, tok, s, ch }: Saved): void {
    this.#sid = sid;
    this.#tok = tok;
    this.#stream = 1;
    this.#received = this.handled = s;
    for (const [name, at] of Object.entries(ch)) this.#channels.set(name, { wanted: true, leaving: false, at });
  }

  saved(): Saved | undefined {
    return this.#sid ? { sid: this.#sid, tok: this.#tok, s: this.handled, ch: this.#positions() } : undefined;
  }

  /** The WebSocket is open with the subprotocol: HELLO. */
  connected(auth: string | undefined, range: Range | undefined): void {
    this.lost();
    this.phase = 'greeting';
    this.#range = range;
    const resume = this.saved();
    this.transmit.push(`H ${JSON.stringify({ v: 1, auth, resume, outbox: range })}`);
  }

  /** The connection has ended: what was in flight goes again. */
  lost(): void {
    this.phase = 'offline';
    this.transmit = [];
    this.#flying = [];
    this.#cost = 0;
    this.#leave = undefined;
    for (const [name, channel] of this.#channels) {
      channel.behind = undefined;
      // Left without a confirmation: not named in HELLO, it ends there.
      if (!channel.wanted && channel.leaving && !channel.at) this.#channels.delete(name);
    }
  }

  /** Throws a {@link Violation}. */
  message(now: number, data: string | ArrayBuffer): void {
    const frame = decode(data, this.limits.maxMessage);
    if (!frame || this.phase === 'offline') return;
    if (this.phase === 'open') this.#frame(now, frame);
    else if (frame.t === 'W') this.#welcome(frame);
    else throw new Violation('a frame before W, the answer to H');
  }

  /** The application has handled a message or gap of the stream, and all before it. */
  delivered(stream: number, sequence: number): void {
    if (stream === this.#stream && sequence > this.handled) this.handled = sequence;
  }

  /** What was handled up to `s` is saved and may be acknowledged; `bytes` of payload came with it. */
  settled(now: number, s: number, bytes: number): void {
    if (s <= this.#mark || s > this.handled) return;
    this.#ack.messages += s - this.#mark;
    this.#ack.bytes += bytes;
    this.#ack.since ??= now;
    this.#mark = s;
  }

  batchEnd(): void {
    this.#ack.wanted ||= this.#mark > this.#told;
  }

  timeout(now: number): void {
    if (this.#pausedUntil !== undefined && now >= this.#pausedUntil) this.#pausedUntil = undefined;
    if (this.#leave && now >= this.#leave.at) {
      this.events.push({ type: 'leave', url: this.#leave.url });
      this.#leave = undefined;
    }
  }

  deadline(): number {
    const ack = this.phase === 'open' && this.#ack.since !== undefined ? this.#ack.since + ACK_AFTER.ms : Infinity;
    return Math.min(ack, this.#leave?.at ?? Infinity, this.#pausedUntil ?? Infinity);
  }

  /** Throws where `name` is none of a channel. */
  subscribe(name: string): void {
    const escaped = escapeName(name);
    const channel = this.#channels.get(name) ?? { wanted: false, leaving: false };
    const known = channel.wanted && !channel.leaving;
    // HELLO did not name it: it has ended, and begins anew behind W.
    if (channel.leaving && this.phase === 'greeting') channel.at = undefined;
    channel.wanted = true;
    channel.leaving = false;
    this.#channels.set(name, channel);
    if (!known && this.phase === 'open') this.transmit.push(`S ${escaped}`);
  }

  unsubscribe(name: string): void {
    const channel = this.#channels.get(name);
    if (!channel) return;
    if (this.phase === 'open') this.transmit.push(`U ${escapeName(name)}`);
    else if (!channel.at) {
      this.#channels.delete(name);
      return;
    }
    channel.wanted = false;
    channel.leaving = true;
  }

  /** Whether an item of `length` bytes may be sent now; one may always be under way. */
  room(length: number): boolean {
    return (
      this.phase === 'open' &&
      !!this.#range &&
      this.#pausedUntil === undefined &&
      (!this.#flying.length || this.#cost + length + ITEM_COST <= this.limits.window)
    );
  }

  /** Sends the outbox's next item, if there is {@link room}; what is missing before it was given up. */
  send(q: number, data: Data, length: number): void {
    if (q > this.#next) {
      this.transmit.push(`E ${q - 1} from=${this.#next}`);
    }
    this.#next = q + 1;
    this.#highest = Math.max(this.#highest, q);
    this.#flying.push([q, length + ITEM_COST]);
    this.#cost += length + ITEM_COST;
    this.transmit.push(item(q, this.#takeAck(), data));
  }

  /** Fresh credentials, in band. */
  refresh(auth: string): void {
    if (this.phase === 'open') this.transmit.push(`T ${JSON.stringify({ auth })}`);
  }

  beat(n: number): void {
    if (this.phase === 'open') this.transmit.push(`I ${n}`);
  }

  /** The frames to write now, in order. */
  take(now: number): Data[] {
    const ack = this.#ack;
    if (
      this.phase === 'open' &&
      (ack.wanted || ack.messages >= ACK_AFTER.messages || ack.bytes >= ACK_AFTER.bytes || now >= (ack.since ?? Infinity) + ACK_AFTER.ms)
    ) {
      const repeat = ack.wanted ? this.#told : 0;
      const n = this.#takeAck() || repeat;
      if (n) this.transmit.push(`A ${n}`);
    }
    return this.transmit.splice(0);
  }

  #takeAck(): number {
    this.#ack = { messages: 0, bytes: 0, since: undefined, wanted: false };
    return this.#mark > this.#told ? (this.#told = this.#mark) : 0;
  }

  #welcome(welcome: Frame & { t: 'W' }): void {
    const { sid, tok, resumed, s0, q, rejected, heartbeat, spread, limits } = welcome;
    const why = welcome.why;
    this.phase = 'open';
    if (sid !== this.#sid) {
      const from = this.#received + 1;
      this.#stream++;
      this.#received = this.handled = s0 - 1;
      // Nobody knows what the lost session had for us.
      if (this.#sid) this.#gap({ channel: null, from, to: undefined, why: why ?? 'unknown' }, 0);
    }
    this.#sid = sid;
    this.#tok = tok;
    this.#mark = this.#told = this.handled;
    this.#takeAck();
    this.limits = limits;
    this.heartbeat = heartbeat && { interval: heartbeat.interval * 1000, timeout: heartbeat.timeout * 1000 };
    if (resumed) this.counters.resumed++;
    this.events.push({ type: 'welcomed', resumed, why, spread: spread * 1000, session: sid });
    const range = this.#range;
    if (range) {
      if (q >= range.next) {
        this.events.push({ type: 'diverged', q });
        throw new Violation(`W: q is ${q}, but this outbox's next item is ${range.next}`, 4004);
      }
      for (const reject of rejected) if (reject.permanent && reject.q >= range.first) this.#rejected(reject);
      if (q >= range.first) this.events.push({ type: 'acknowledged', q });
      this.#next = Math.max(range.first, q + 1);
      this.#acknowledged = this.#highest = this.#next - 1;
    }
    for (const [name, { leaving, at }] of this.#channels) {
      if (leaving) this.transmit.push(`U ${escapeName(name)}`);
      else if (!at) this.transmit.push(`S ${escapeName(name)}`);
    }
  }

  #frame(now: number, frame: Frame): void {
    switch (frame.t) {
      case 'A':
        return this.#settle(frame.n);
      case 'I':
        this.transmit.push(`O ${frame.n}`);
        return;
      case 'O':
        this.events.push({ type: 'answered', n: frame.n });
        return;
      case 'R':
        this.events.push({ type: 'replayed' });
        return;
      case 'M': {
        const { n, q, data } = frame;
        if (q) this.#settle(q);
        if (n <= this.#received) {
          this.counters.duplicates++;
          // It waits for the application, or was handled and the server does not know.
          if (n <= this.#mark) this.#ack.wanted ||= this.#mark > 0;
        } else if (n === this.#received + 1) {
          this.#received = n;
          this.events.push({ type: 'message', channel: null, sequence: n, data, stream: this.#stream });
        } else throw new Violation(`M ${n}: ${this.#received + 1} is next, G tells what will not come`, 4004);
        return;
      }
      case 'C': {
        const { ch, at, data } = frame;
        const channel = this.#channels.get(ch);
        // Left, and the server did not know it yet.
        if (!channel?.at || channel.leaving) return;
        const { e, o } = channel.at;
        if (e === at.e && at.o <= o) {
          this.counters.duplicates++;
          return;
        }
        if (e !== at.e || at.o !== o + 1) {
          throw new Violation(`C ${ch}: ${at.o} of ${at.e}, but ${o + 1} of ${e} is next, K and G tell what will not come`, 4004);
        }
        channel.at = at;
        this.events.push({ type: 'message', channel: ch, sequence: at.o, data, stream: 0 });
        return;
      }
      case 'B': {
        const channel = this.#channels.get(frame.ch);
        if (!channel || channel.leaving) return;
        channel.at = frame.at;
        this.events.push({ type: 'snapshot', channel: frame.ch, sequence: frame.at.o, data: frame.data });
        return;
      }
      case 'G': {
        const { channel: name, to, why } = frame;
        let { from } = frame;
        if (name === null) {
          const end = to ?? from;
          if (end > this.#received) {
            from = Math.max(from, this.#received + 1);
            this.#received = end;
            this.#gap({ channel: name, from, to, why }, this.#stream);
          }
          return;
        }
        const channel = this.#channels.get(name);
        if (!channel || channel.leaving) return;
        channel.at = channel.behind ?? channel.at;
        channel.behind = undefined;
        this.#gap({ channel: name, from, to, why }, 0);
        return;
      }
      case 'K': {
        const { ch, st, at } = frame;
        const channel = this.#channels.get(ch) ?? { wanted: false, leaving: false };
        if (at) {
          if (channel.leaving) return;
          this.#channels.set(ch, channel);
          if (st !== 'ok') channel.behind = at;
          // What the server sends again from there is known.
          else if (channel.at?.e !== at.e || channel.at.o <= at.o) channel.at = at;
        } else if (st === 'left' && channel.wanted && !channel.leaving) {
          // Asked for again meanwhile: the answer to that is under way.
          channel.at = undefined;
        } else this.#channels.delete(ch);
        this.events.push({ type: 'subscription', channel: ch, status: st });
        return;
      }
      case 'N': {
        const { q } = frame;
        if (q <= this.#acknowledged || q >= this.#next) return;
        if (frame.permanent) return this.#rejected(frame);
        while (this.#flying.length && this.#flying.at(-1)![0] >= q) this.#cost -= this.#flying.pop()![1];
        this.#next = q;
        this.#pausedUntil = now + (this.#retry.next() ?? 30000);
        this.events.push({ type: 'resend', q });
        return;
      }
      case 'X':
        this.#leave = { at: now + (frame.after + frame.window * this.#random()) * 1000, url: frame.url };
        return;
      case 'W':
        throw new Violation('W: a second WELCOME');
    }
  }

  #settle(q: number): void {
    // Items sent on an earlier connection may be settled before they are sent on this one.
    const last = Math.max(this.#range ? this.#range.next - 1 : 0, this.#highest);
    if (q > last) throw new Violation(`A ${q}: ${last} is the last that was sent`, 4004);
    while (this.#flying.length && this.#flying[0]![0] <= q) this.#cost -= this.#flying.shift()![1];
    if (q > this.#acknowledged) {
      this.#acknowledged = q;
      // It may have been refused for now and come all the same, sent before that was known.
      this.#next = Math.max(this.#next, q + 1);
      this.#retry = new Backoff(this.#retryOptions, this.#random);
      this.events.push({ type: 'acknowledged', q });
    }
  }

  #gap(gap: Gap, stream: number): void {
    this.counters.gaps++;
    this.events.push({ type: 'gap', gap, stream });
  }

  #rejected(reject: Reject): void {
    this.counters.rejected++;
    this.events.push({ type: 'rejected', reject });
  }

  #positions(): Record<string, Position> {
    return Object.fromEntries([...this.#channels].flatMap(([name, { leaving, at }]) => (at && !leaving ? [[name, at]] : [])));
  }
}
