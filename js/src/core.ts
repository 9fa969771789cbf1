/**
 * All of the client's rules without I/O: states, back-off, heartbeat, session, outbox. Inputs are methods, which
 * are told the time in milliseconds; what is to be done is in `outputs`, when to call `timeout` in `deadline()`.
 */

import { Backoff, type ReconnectOptions } from './backoff.js';
import { type Data, size, Violation } from './codec.js';
import { type Item, Outbox, type OutboxOptions } from './outbox.js';
import { type Gap, type Saved, Session, type SessionEvent } from './session.js';

export type State = 'disconnected' | 'connecting' | 'connected' | 'reconnecting' | 'closed';

export interface Transition {
  from: State;
  to: State;
  /** Close code that caused it, else 0. */
  code: number;
  reason: string;
  /** Counts dials since the start or the last stable connection: the one that begins, succeeded or comes next. */
  attempt: number;
  /** To `reconnecting`: milliseconds until the next dial; missing: until there is something to send. */
  delay: number | undefined;
}

export interface Message {
  /** As it was sent: text or binary. */
  data: string | ArrayBuffer;
  /** Null: sent to this client. */
  channel: string | null;
  /** In the client's stream or the channel's log; 0 where the server speaks plain WebSocket. */
  sequence: number;
}

export interface Refused {
  /** What `send` returned; 0 or less: sent by an earlier page or a tab that is gone. */
  sequence: number;
  data: string | ArrayBuffer;
}

/** What listeners of {@link Lifeline} are given. */
export interface Events {
  state: Transition;
  open: { lifeline: boolean; resumed: boolean; why: string | undefined; session: string };
  close: { code: number; reason: string; final: boolean };
  message: Message;
  snapshot: Message;
  gap: Gap;
  resume: { replayed: number };
  subscription: { channel: string; status: string };
  reject: Refused & { code: number; reason: string };
  overflow: Refused & { why: 'limit' | 'expired' | 'closed' | 'too big' };
  error: Error;
}

export type Emit = { [K in keyof Events]: { type: 'emit'; name: K; value: Events[K] } }[keyof Events];

export type Output =
  | Emit
  /** Open a WebSocket: `opened`, `message` and `lost` tell what becomes of it. */
  | { type: 'dial'; plain: boolean; fresh: boolean; url: string | undefined }
  /** Close the WebSocket and forget it: it tells nothing more. */
  | { type: 'drop'; code: number; reason: string }
  | { type: 'write'; data: Data }
  /** A message or gap for the application: then call `handled` with its numbers. */
  | { type: 'deliver'; emit: Emit; stream: number; sequence: number; bytes: number }
  /** Keep an item: then call `stored`. */
  | { type: 'store'; item: Item }
  /** Items need not be kept any longer: the one, or all up to it. */
  | { type: 'forget'; q: number; all: boolean }
  /** What is kept belongs to an outbox with a new id. */
  | { type: 'rekey' }
  /** Nothing more will come. */
  | { type: 'ended' };

export interface CoreOptions {
  reconnect?: ReconnectOptions;
  outbox?: OutboxOptions;
  /** Items are sent once `stored` has said that they are kept; messages acknowledged after `saved`. */
  durable?: boolean;
  /** `auto`: offer `lifeline.v1`, be content with less. */
  mode?: 'auto' | 'lifeline' | 'plain';
  connectTimeout?: number;
  random?: () => number;
}

/** Codes after which coming back is pointless; lifeline's own are from 4500 on. */
const TERMINAL = [1002, 1003, 1007, 1009, 1010];
/** How long an answer to doubt may take. */
const GRACE = 5000;
/** A timer that runs so late belongs to a tab that slept: what came meanwhile may be waiting behind it. */
const LATE = 2000;
const WELCOME_TIMEOUT = 30000;
const LONGEST_SPREAD = 60000;
const PLAIN_WINDOW = 1 << 20;

type Phase = 'new' | 'dialing' | 'greeting' | 'open' | 'waiting' | 'dormant' | 'ended';

export class Core {
  outputs: Output[] = [];
  readonly session: Session;
  readonly outbox: Outbox;
  /** What the connection that is there, or the last one, spoke. */
  lifeline = false;
  mode: 'auto' | 'lifeline' | 'plain';
  /** The outbox's id and generation. */
  id = '';
  gen = 1;
  /** Milliseconds of the last answered beat. */
  rtt: number | undefined;
  dials = 0;

  #options: Required<Pick<CoreOptions, 'durable' | 'connectTimeout'>>;
  #backoff: Backoff;
  #phase: Phase = 'new';
  /** Of the wait or the handshake. */
  #until = Infinity;
  #spread: number | undefined;
  #fresh = false;
  #url: string | undefined;
  /** Plain WebSocket: `next` is tried because the offer failed, `works` as it opened. */
  #plain: '' | 'next' | 'trying' | 'works' = '';
  #lastReceived = 0;
  #probe: { n: number; at: number; deadline: number; late: boolean } | undefined;
  #beats = 0;
  #replayed: number | undefined;
  #stored = 0;
  /** Numbers of this page's messages begin behind it. */
  #base = 0;
  /** Bytes given to a plain socket, and where its items end. */
  #handed = 0;
  #left = 0;
  #ends: [q: number, end: number][] = [];

  constructor({ reconnect = {}, outbox = {}, durable = false, mode = 'auto', connectTimeout = 10000, random = Math.random }: CoreOptions) {
    this.#options = { durable, connectTimeout };
    this.mode = mode;
    this.#backoff = new Backoff(reconnect, random);
    this.session = new Session(random);
    this.outbox = new Outbox({ limit: 10000, bytes: 1 << 24, overflow: 'error', ttl: durable ? undefined : 300000, ...outbox });
  }

  get state(): State {
    return stateOf(this.#phase);
  }

  /** Whether messages can leave now. */
  get open(): boolean {
    return this.#phase === 'open';
  }

  /** What an earlier page has left. Before `connect`. */
  restore(id: string, gen: number, items: Item[], next: number, saved: Saved | undefined): void {
    this.id = id;
    this.gen = gen;
    this.#base = this.outbox.restore(items, next);
    this.#stored = next - 1;
    if (saved) {
      this.session.restore(saved);
      this.mode = 'lifeline';
    }
    for (const item of this.outbox.from(next)) this.#keep(item);
  }

  /** Items are sent that nobody keeps: the store has failed. */
  forgo(): void {
    this.#options.durable = false;
    this.#stored = Infinity;
  }

  connect(now: number): void {
    if (this.#phase === 'new') this.#dial(now);
  }

  /** The application wants the connection now, or doubts it. */
  wake(now: number): void {
    if (this.#phase === 'waiting' || this.#phase === 'dormant') this.#dial(now);
    else this.doubt(now);
  }

  /** The connection may be gone: find out soon. */
  doubt(now: number): void {
    if (this.open && this.lifeline && (this.#probe?.deadline ?? Infinity) === Infinity) this.#beat(now, now + GRACE, false);
    this.#flush(now);
  }

  /** Returns the message's number. Throws where there is no room, or when closed. */
  send(now: number, data: Data, ttl = this.outbox.options.ttl): number {
    if (this.#phase === 'ended') throw new Error('the client is closed');
    const { item, dropped } = this.outbox.push(data, size(data), ttl == null ? Infinity : now + ttl);
    if (this.id && !dropped.includes(item)) this.#keep(item);
    this.#overflow(dropped, 'limit');
    this.#pending(now);
    return item.q - this.#base;
  }

  subscribe(now: number, channel: string): void {
    this.session.subscribe(channel);
    this.#pending(now);
  }

  unsubscribe(now: number, channel: string): void {
    this.session.unsubscribe(channel);
    this.#flush(now);
  }

  refresh(now: number, auth: string): void {
    this.session.refresh(auth);
    this.#flush(now);
  }

  /** The WebSocket is open; whether the server selected `lifeline.v1`. */
  opened(now: number, lifeline: boolean, auth?: string): void {
    if (this.#phase !== 'dialing') return;
    this.lifeline = lifeline;
    if (lifeline) {
      this.mode = 'lifeline';
      this.#plain = '';
      this.#phase = 'greeting';
      this.#until = now + WELCOME_TIMEOUT;
      const { first, next } = this.outbox;
      this.session.connected(auth, { id: this.id, gen: this.gen, first, next });
      this.#flush(now);
    } else if (this.#plain === 'trying' && this.mode === 'auto') {
      // It may have come up only now: whoever offers `lifeline.v1` to it again knows.
      this.#plain = 'works';
      this.outputs.push({ type: 'drop', code: 1000, reason: '' });
      this.#enter('waiting', 0, '', 0);
      this.#dial(now);
    } else {
      this.#connected(now);
      this.#emit('open', { lifeline, resumed: false, why: undefined, session: '' });
      this.#flush(now);
    }
  }

  /** A WebSocket message came. */
  message(now: number, data: string | ArrayBuffer): void {
    this.#lastReceived = now;
    // Its answer still tells how long it took.
    if (this.#probe) this.#probe.deadline = Infinity;
    if (this.lifeline && (this.#phase === 'greeting' || this.open)) {
      let violation: Violation | undefined;
      try {
        this.session.message(now, data);
      } catch (error) {
        if (!(error instanceof Violation)) throw error;
        violation = error;
      }
      this.#events(now);
      if (violation) this.#cut(now, violation.code, violation.message);
      else this.#flush(now);
    } else if (this.open) this.#emit('message', { data, channel: null, sequence: 0 });
  }

  /** The WebSocket has ended, or could not be opened; `code` 0: there was none. */
  lost(now: number, code: number, reason: string, terminal = TERMINAL.includes(code)): void {
    const phase = this.#phase;
    if (phase !== 'dialing' && phase !== 'greeting' && phase !== 'open') return;
    terminal ||= phase !== 'dialing' && this.lifeline && code >= 4500 && code < 5000;
    this.#forgetConnection(now);
    if (phase === 'open') {
      if (!terminal) this.#emit('close', { code, reason, final: false });
    }
    if (terminal) return this.#giveUp(code, reason);
    this.#fresh ||= code === 4003;
    this.#url = undefined;
    if (phase === 'dialing' && this.mode === 'auto') {
      if (this.#plain === 'works') {
        // Nothing but the offer was wrong.
        this.mode = 'plain';
        this.#enter('waiting', code, reason, 0);
        return this.#dial(now);
      }
      this.#plain = this.#plain ? '' : 'next';
    }
    const delay = this.#backoff.next(this.#spread);
    if (delay === undefined) return this.#giveUp(code, `${reason}${reason && '; '}reconnect attempts exhausted`);
    this.#until = now + delay;
    // Idle: until there is something to say.
    if (code === 4006 && phase === 'open' && !this.outbox.length) this.#enter('dormant', code, reason);
    else this.#enter('waiting', code, reason, delay);
  }

  /** Leaves the connection for a new one, at once. */
  reconnect(now: number, reason = '', url?: string): void {
    if (!this.open) return this.wake(now);
    // Browsers cannot close with 1001.
    this.outputs.push({ type: 'drop', code: 1000, reason });
    const stable = this.#forgetConnection(now);
    this.#emit('close', { code: 1001, reason, final: false });
    this.#url = url;
    // Whoever sends us on again and again is not obeyed at once.
    const delay = stable ? 0 : this.#backoff.next(this.#spread);
    if (delay === undefined) return this.#giveUp(1001, reason);
    this.#until = now + delay;
    this.#enter('waiting', 1001, reason, delay);
    if (!delay) this.#dial(now);
  }

  /** The application closes, for good. */
  close(code: number, reason: string): void {
    if (this.#phase === 'ended') return;
    if (this.#phase !== 'new') this.outputs.push({ type: 'drop', code, reason });
    this.#end(code, reason);
  }

  /** Items up to `q` are kept. */
  stored(now: number, q: number): void {
    this.#stored = Math.max(this.#stored, q);
    this.#flush(now);
  }

  /** The application has handled a message; see the output `deliver`. */
  handled(stream: number, sequence: number): void {
    this.session.delivered(stream, sequence);
  }

  /** What was handled up to `s` is saved, and a batch has ended: it is acknowledged. */
  saved(now: number, s: number, bytes: number, end = true): void {
    this.session.settled(now, s, bytes);
    if (end) this.session.batchEnd();
    this.#flush(now);
  }

  /** So many bytes of what was written wait in the plain socket: the rest has left. */
  buffered(now: number, bytes: number): void {
    let settled = 0;
    this.#left = this.#handed - bytes;
    while (this.#ends.length && this.#ends[0]![1] <= this.#left) settled = this.#ends.shift()![0];
    if (settled) {
      this.outbox.acknowledge(settled);
      this.outputs.push({ type: 'forget', q: settled, all: true });
    }
    this.#flush(now);
  }

  /** Whether {@link buffered} is awaited. */
  get writing(): boolean {
    return this.#ends.length > 0;
  }

  timeout(now: number): void {
    const { session } = this;
    if (now >= this.#until) {
      if (this.#phase === 'waiting') this.#dial(now);
      else if (this.#phase === 'dialing' || this.#phase === 'greeting') this.#cut(now, 1006, 'no answer to the handshake');
    }
    if (this.open) {
      session.timeout(now);
      this.#events(now);
      this.#listen(now);
    }
    this.#flush(now);
  }

  /** When `timeout` wants to be called. */
  deadline(): number {
    const open = this.open ? Math.min(this.session.deadline(), this.#silence()) : Infinity;
    const waiting = ['waiting', 'dialing', 'greeting'].includes(this.#phase) ? this.#until : Infinity;
    return Math.min(open, waiting, this.#phase === 'ended' ? Infinity : this.outbox.deadline);
  }

  #dial(now: number): void {
    this.dials++;
    const plain = this.mode === 'plain' || this.#plain === 'next';
    if (this.#plain === 'next') this.#plain = 'trying';
    this.#enter('dialing');
    this.#until = now + this.#options.connectTimeout;
    this.outputs.push({ type: 'dial', plain, fresh: this.#fresh, url: this.#url });
    this.#fresh = false;
  }

  #forgetConnection(now: number): boolean {
    this.session.lost();
    this.outbox.resend();
    this.#probe = this.#replayed = undefined;
    this.#ends = [];
    const stable = this.#backoff.lost(now);
    if (stable) this.dials = 0;
    return stable;
  }

  #connected(now: number): void {
    this.#lastReceived = now;
    this.#handed = this.#left = 0;
    this.#backoff.connected(now);
    this.#enter('open');
  }

  /** We end the connection. */
  #cut(now: number, code: number, reason: string, url?: string): void {
    this.outputs.push({ type: 'drop', code, reason });
    this.lost(now, code, reason);
    this.#url = url;
  }

  #giveUp(code: number, reason: string): void {
    this.#emit('error', new Error(`gave up: ${reason || 'connection refused'} (code ${code})`));
    this.#end(code, reason);
  }

  #end(code: number, reason: string): void {
    this.#forgetConnection(0);
    this.#enter('ended', code, reason);
    if (!this.#options.durable) this.#overflow(this.outbox.drain(), 'closed');
    this.#emit('close', { code, reason, final: true });
    this.outputs.push({ type: 'ended' });
  }

  #enter(phase: Phase, code = 0, reason = '', delay?: number): void {
    const [from, to] = [this.state, stateOf(phase)];
    this.#phase = phase;
    const attempt = this.dials + (to === 'reconnecting' ? 1 : 0);
    if (from !== to) this.#emit('state', { from, to, code, reason, attempt, delay });
  }

  #pending(now: number): void {
    if (this.#phase === 'dormant') {
      this.#phase = 'waiting';
      if (now >= this.#until) this.#dial(now);
    }
    this.#flush(now);
  }

  #keep(item: Item): void {
    if (this.#options.durable) this.outputs.push({ type: 'store', item });
    else this.#stored = item.q;
  }

  #overflow(items: Item[], why: Events['overflow']['why']): void {
    for (const { q, data } of items) {
      this.outputs.push({ type: 'forget', q, all: false });
      this.#emit('overflow', { sequence: q - this.#base, data: plainData(data), why });
    }
  }

  /** What has silence to say? */
  #listen(now: number): void {
    const { heartbeat } = this.session;
    const probe = this.#probe;
    if (!this.lifeline || now < this.#silence()) return;
    if (!probe || probe.deadline === Infinity) {
      const end = this.#lastReceived + heartbeat!.interval + heartbeat!.timeout;
      this.#beat(now, now > end ? now + this.#grace() : end, false);
    } else if (now > probe.deadline + LATE && !probe.late) this.#beat(now, now + this.#grace(), true);
    else this.#cut(now, 4001, 'no answer to heartbeat');
  }

  /** When to listen. */
  #silence(): number {
    const { heartbeat } = this.session;
    if (this.#probe && this.#probe.deadline !== Infinity) return this.#probe.deadline;
    return this.lifeline && heartbeat ? this.#lastReceived + heartbeat.interval + heartbeat.timeout - this.#grace() : Infinity;
  }

  /** How long before the end of patience we ask. */
  #grace(): number {
    const { heartbeat } = this.session;
    return Math.min(GRACE, heartbeat ? heartbeat.timeout / 2 : GRACE);
  }

  #beat(now: number, deadline: number, late: boolean): void {
    this.#probe = { n: ++this.#beats, at: now, deadline, late };
    this.session.beat(this.#beats);
  }

  #events(now: number): void {
    for (let event; (event = this.session.events.shift()); ) this.#event(now, event);
  }

  #event(now: number, event: SessionEvent): void {
    const { outbox, outputs } = this;
    switch (event.type) {
      case 'welcomed': {
        const { resumed, why, session, spread } = event;
        this.#spread = Math.min(spread, LONGEST_SPREAD);
        this.#connected(now);
        this.#replayed = resumed ? 0 : undefined;
        return this.#emit('open', { lifeline: true, resumed, why, session });
      }
      case 'message':
      case 'snapshot': {
        const { channel, sequence, data } = event;
        if (this.#replayed !== undefined) this.#replayed++;
        const value = { data: plainData(data), channel, sequence };
        const stream = event.type === 'message' ? event.stream : 0;
        outputs.push({ type: 'deliver', emit: { type: 'emit', name: event.type, value }, stream, sequence, bytes: size(data) });
        return;
      }
      case 'gap': {
        const { gap, stream } = event;
        const sequence = stream ? (gap.to ?? gap.from) : 0;
        outputs.push({ type: 'deliver', emit: { type: 'emit', name: 'gap', value: gap }, stream, sequence, bytes: 0 });
        return;
      }
      case 'subscription':
        return this.#emit('subscription', { channel: event.channel, status: event.status });
      case 'acknowledged':
        outbox.acknowledge(event.q);
        outputs.push({ type: 'forget', q: event.q, all: true });
        return;
      case 'rejected': {
        const { q, code, reason } = event.reject;
        const item = outbox.take(q);
        if (item) {
          outputs.push({ type: 'forget', q, all: false });
          this.#emit('reject', { sequence: q - this.#base, data: plainData(item.data), code, reason });
        }
        return;
      }
      case 'resend':
        return outbox.resend(event.q);
      case 'diverged':
        outputs.push({ type: 'rekey' });
        return;
      case 'answered':
        if (this.#probe?.n === event.n) {
          this.rtt = now - this.#probe.at;
          this.#probe = undefined;
        }
        return;
      case 'replayed':
        if (this.#replayed !== undefined) this.#emit('resume', { replayed: this.#replayed });
        this.#replayed = undefined;
        return;
      case 'leave':
        this.reconnect(now, 'the server asked to leave', event.url);
    }
  }

  /** Writes what can be written now. */
  #flush(now: number): void {
    const { outbox, outputs, session } = this;
    if (this.#phase === 'ended') return;
    this.#overflow(outbox.expire(now), 'expired');
    for (let item; this.open && (item = outbox.peek()) && item.q <= this.#stored; ) {
      const { q, data, size } = item;
      if (this.lifeline) {
        if (size > session.limits.maxMessage) {
          outbox.take(q);
          this.#overflow([item], 'too big');
          continue;
        }
        if (!session.room(size)) break;
        session.send(q, data, size);
      } else {
        if (this.#ends.length && this.#handed - this.#left + size > PLAIN_WINDOW) break;
        this.#handed += size;
        this.#ends.push([q, this.#handed]);
        outputs.push({ type: 'write', data });
      }
      outbox.sent();
    }
    for (const data of session.take(now)) outputs.push({ type: 'write', data });
  }

  #emit<K extends keyof Events>(name: K, value: Events[K]): void {
    this.outputs.push({ type: 'emit', name, value } as Emit);
  }
}

function stateOf(phase: Phase): State {
  switch (phase) {
    case 'new':
      return 'disconnected';
    case 'dialing':
    case 'greeting':
      return 'connecting';
    case 'open':
      return 'connected';
    case 'ended':
      return 'closed';
    default:
      return 'reconnecting';
  }
}

/** As an application has it. */
function plainData(data: Data): string | ArrayBuffer {
  return typeof data === 'string' ? data : data.slice().buffer;
}
