/**
 * All of the client's rules without I/O: states, back-off, heartbeat, session, outbox (docs/protocol.md; the same as
 * in crates/proto). Inputs are functions, which are told the time in milliseconds; what is to be done is asked of the
 * host at once, what an application must hear is given to it in order.
 */

import { createBackoff, type ReconnectOptions } from './backoff.js';
import { type Data, decode, escapeName, type Frame, item as encodeItem, need, type Position, type Reject, size, type Violation, type Welcome } from './codec.js';

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

export interface Gap {
  /** Null: messages that were sent to this client only. */
  channel: string | null;
  from: number;
  /** Missing where nobody knows the end. */
  to: number | undefined;
  why: string;
}

export interface Refused {
  /** What `send` returned; 0 or less: sent by an earlier page or a tab that is gone. */
  sequence: number;
  data: string | ArrayBuffer;
  /** It is an edit of a document. */
  edit?: true | undefined;
}

/** What listeners are given. */
export interface Events {
  state: Transition;
  open: { lifeline: boolean; resumed: boolean; why?: string | undefined };
  close: { code: number; reason: string; final: boolean };
  message: Message;
  snapshot: Message;
  gap: Gap;
  resume: { replayed: number };
  subscription: { channel: string; status: string };
  reject: Refused & { code: number; reason: string };
  overflow: Refused & { why: 'expired' | 'closed' | 'too big' };
  error: Error;
}

/** A message in the outbox. */
export interface Item {
  q: number;
  data: Data;
  /** Bytes. */
  size: number;
  /** When it is no longer worth sending. */
  expires: number;
  /** It edits a document. */
  edit?: true | undefined;
  /** The conflict that the edit met, which the application does not know yet; `q` is negative then. */
  why?: string;
}

export interface OutboxOptions {
  /** Messages that wait at most, else `send()` throws; 10000. */
  limit?: number;
  /** Their bytes at most; 16 MiB. */
  bytes?: number;
  /** Milliseconds after which an unsent message goes to `overflow`; default: never where the outbox is kept, else 300000. */
  ttl?: number | undefined;
}

/** What is kept for the session to go on after a reload. */
export interface Saved {
  sid: string;
  tok: string;
  /** The last message of the stream that was handled. */
  s: number;
  /** The last one that came, where that is a later one; for H. */
  r?: number | undefined;
  /** Behind the last message of each channel. */
  ch: Record<string, Position>;
}

/** Which outbox an earlier page has left: with which number it goes on, and the session. */
export interface Kept {
  outbox: string;
  gen: number;
  next: number;
  saved?: Saved | undefined;
}

/** What carries out and tells. */
export interface Host {
  /** Open a WebSocket, later: `opened`, `message` and `lost` tell what becomes of it. */
  dial(plain: boolean, fresh: boolean, url: string | undefined): unknown;
  /** Close the WebSocket and forget it: it tells nothing more. */
  drop(code: number, reason: string): void;
  write(data: Data): void;
  /** Keep an item, then call `stored`. */
  store(item: Item): void;
  /** An item, or all up to it, need not be kept any longer. */
  forget(q: number, all: boolean): void;
  /** The id of a new outbox for what is kept. */
  rekey(): string;
  /** For the application; `handled`: when it has had it, call `handled` with these numbers. */
  emit<K extends keyof Events>(name: K, value: Events[K], handled?: [stream: number, sequence: number]): void;
  /** Nothing more will come. */
  ended(): void;
}

export interface CoreOptions {
  reconnect?: ReconnectOptions | undefined;
  outbox?: OutboxOptions | undefined;
  /** Items are sent once `stored` has said that they are kept; messages acknowledged after `saved`. */
  durable?: boolean;
  /** `auto`: offer `lifeline.v1`, be content with less. */
  mode?: 'auto' | 'lifeline' | 'plain' | undefined;
  connectTimeout?: number | undefined;
  random?: () => number;
}

interface Channel {
  /** The application asked for it; else the server made it. */
  wanted?: boolean;
  /** The application left it; the server has not confirmed. */
  leaving?: boolean;
  /** Nothing: the server has not confirmed. */
  at?: Position | undefined;
  /** Where it goes on once the gap, which comes next, is told. */
  behind?: Position | undefined;
}

const enum Phase {
  New,
  Dialing,
  /** HELLO is out. */
  Greeting,
  Open,
  /** Back-off. */
  Waiting,
  /** Until there is something to say. */
  Dormant,
  Ended,
}
const STATES: State[] = ['disconnected', 'connecting', 'connecting', 'connected', 'reconnecting', 'reconnecting', 'closed'];

/** How plain WebSocket comes to be tried where `lifeline.v1` was offered in vain. */
const enum Trial {
  None,
  /** It is to be dialed next. */
  Next,
  Dialing,
  /** It opened, so whoever offers again at once knows. */
  Opened,
}

/** How long an answer to doubt may take. */
const GRACE = 5000;
/** A timer that runs so late belongs to a tab that slept: what came meanwhile may be waiting behind it. */
const LATE = 2000;
const WELCOME_TIMEOUT = 30000;
const LONGEST_SPREAD = 60000;
const PLAIN_WINDOW = 1 << 20;
/** What an item counts against the window beside its payload. */
const ITEM_COST = 64;

/** What documents are told: each frame before it is handled, and what it was read from; nothing: an unknown type. */
export type Tap = (frame: Frame | undefined, raw: string | ArrayBuffer) => void;

export type Core = ReturnType<typeof createCore>;

export function createCore(options: CoreOptions, { dial: dialOut, drop, write, store, forget, rekey, emit, ended }: Host) {
  const { reconnect: policy = {}, random = Math.random, connectTimeout = 10000 } = options;
  let { durable, mode = 'auto' } = options;
  const { limit = 10000, bytes: mostBytes = 1 << 24, ttl: usualTtl = durable ? Infinity : 300000 } = options.outbox ?? {};

  let phase = Phase.New;
  const backoff = createBackoff(policy, random);
  /** The end of the wait or the handshake. */
  let until = Infinity;
  let spread: number | undefined;
  let fresh = false;
  let elsewhere: string | undefined;
  let trial = Trial.None;
  /** What the connection that is there, or the last one, speaks. */
  let lifeline = false;
  let dials = 0;

  /** Silence for so long is a reason to ask, and for so long more it is death. */
  let patience = Infinity;
  let grace = GRACE;
  let lastReceived = 0;
  let beats = 0;
  let asked = 0;
  /** When silence is judged next, if a beat is out that nothing came after. */
  let answerBy = Infinity;
  let askedAgain = false;
  let rtt: number | undefined;

  let sid = '';
  let tok = '';
  let limits = { maxMessage: Infinity, window: 0 };
  /** Counts sessions, so that what belongs to a lost one is not acknowledged to the next. */
  let stream = 0;
  let received = 0;
  let handled = 0;
  const channels = new Map<string, Channel>();
  let leaveAt = Infinity;
  let replayed: number | undefined;
  const counters = { duplicates: 0, gaps: 0, rejected: 0, resumed: 0 };
  /** Acknowledgements of the stream: what may be told, and what was. */
  let mark = 0;
  let told = 0;

  let outboxId = '';
  let gen = 1;
  /** Messages that wait or are in flight; so many from the oldest on are in flight, at that cost. */
  const items: (Item & { end?: number })[] = [];
  let flying = 0;
  let cost = 0;
  let bytes = 0;
  /** The number of the next new item, and what it was at HELLO. */
  let next = 1;
  let nextAtHello = 1;
  /** No item that waits expires before. */
  let earliest = Infinity;
  let stored = 0;
  /** Numbers of this page's messages begin behind it. */
  let base = 0;
  /** The item that the server expects next. */
  let expected = 1;
  let acknowledged = 0;
  let retry = createBackoff({}, random);
  let pausedUntil = Infinity;
  /** Bytes given to a plain socket. */
  let given = 0;

  let tap: Tap | undefined;

  const state = () => STATES[phase]!;
  const isOpen = () => phase === Phase.Open;
  const outward = (data: Data) => (data as Uint8Array<ArrayBuffer>).buffer ?? data;
  /** A frame for the server, once there is a session. */
  const say = (frame: string) => {
    if (isOpen() && lifeline) write(frame);
  };

  function enter(to: Phase, code = 0, reason = '', delay?: number): void {
    const from = state();
    phase = to;
    if (from !== state()) emit('state', { from, to: state(), code, reason, attempt: dials + +(state() === 'reconnecting'), delay });
  }

  function dial(now: number): void {
    dials++;
    const plain = mode === 'plain' || trial === Trial.Next;
    if (trial === Trial.Next) trial = Trial.Dialing;
    enter(Phase.Dialing);
    until = now + connectTimeout;
    dialOut(plain, fresh, elsewhere);
    fresh = false;
  }

  function connected(now: number): void {
    lastReceived = now;
    given = 0;
    until = Infinity;
    backoff.begin(now);
    enter(Phase.Open);
  }

  /** The connection is over: what was in flight goes again. Whether it had been stable. */
  function forgetConnection(now: number): boolean {
    resend(0);
    pausedUntil = leaveAt = answerBy = patience = Infinity;
    asked = 0;
    replayed = elsewhere = undefined;
    for (const [name, channel] of channels) {
      channel.behind = undefined;
      // Left without a confirmation: not named in HELLO, it ends there.
      if (channel.leaving && !channel.at) channels.delete(name);
    }
    const stable = backoff.end(now);
    if (stable) dials = 0;
    return stable;
  }

  /** Plans the next dial, or gives up. */
  function wait(now: number, code: number, reason: string, delay = backoff.next(spread), dormant = false): void {
    if (delay == null) return giveUp(code, `${reason} attempts exhausted`);
    until = now + delay;
    if (dormant) enter(Phase.Dormant, code, reason);
    else enter(Phase.Waiting, code, reason, delay);
    if (!delay && !dormant) dial(now);
  }

  function giveUp(code: number, reason: string): void {
    emit('error', Error(`${code} ${reason}`));
    end(code, reason);
  }

  function end(code: number, reason: string): void {
    forgetConnection(0);
    until = Infinity;
    enter(Phase.Ended, code, reason);
    if (!durable) overflow(remove(0, items.length), 'closed');
    emit('close', { code, reason, final: true });
    ended();
  }

  /** The WebSocket has ended, or could not be opened; `code` 0: there was none. */
  function lost(now: number, code: number, reason: string, terminal = [1002, 1003, 1007, 1009, 1010].includes(code)): void {
    const before = phase;
    if (before < Phase.Dialing || before > Phase.Open) return;
    forgetConnection(now);
    if (terminal || (before > Phase.Dialing && lifeline && code >= 4500 && code < 5000)) return giveUp(code, reason);
    if (before === Phase.Open) emit('close', { code, reason, final: false });
    fresh ||= code === 4003;
    if (before === Phase.Dialing && mode === 'auto') {
      if (trial === Trial.Opened) {
        // Nothing but the offer was wrong.
        mode = 'plain';
        return wait(now, code, reason, 0);
      }
      trial = trial ? Trial.None : Trial.Next;
    }
    wait(now, code, reason, undefined, code === 4006 && before === Phase.Open && !items.length);
  }

  /** We end the connection. */
  function cut(now: number, code: number, reason: string): void {
    drop(code, reason);
    lost(now, code, reason);
  }

  /** Leaves the connection for a new one. Who is sent on again and again does not obey at once. */
  function reconnect(now: number, reason = '', url?: string): void {
    if (!isOpen()) return;
    // Browsers cannot close with 1001.
    drop(1000, reason);
    const delay = forgetConnection(now) ? 0 : undefined;
    emit('close', { code: 1001, reason, final: false });
    elsewhere = url;
    wait(now, 1001, reason, delay);
  }

  /** Something to say ends the wait for it. */
  function pending(now: number): void {
    if (phase === Phase.Dormant) {
      phase = Phase.Waiting;
      if (now >= until) dial(now);
    }
    flush(now);
  }

  // The outbox.

  function append(item: Item): void {
    items.push(item);
    bytes += item.size;
    earliest = Math.min(earliest, item.expires);
  }

  function remove(index: number, count: number): Item[] {
    const removed = items.splice(index, count);
    for (const { size } of removed) {
      bytes -= size;
      if (index < flying) {
        flying--;
        cost -= size + ITEM_COST;
      }
    }
    return removed;
  }

  /** Item `q` and what is in flight behind it waits again. */
  function resend(q: number): void {
    while (flying && items[flying - 1]!.q >= q) cost -= items[--flying]!.size + ITEM_COST;
    // Look at them again.
    earliest = 0;
  }

  function expire(now: number): void {
    if (now < earliest) return;
    earliest = Infinity;
    for (const item of items.slice(flying)) {
      if (item.expires <= now) overflow(remove(items.indexOf(item), 1), 'expired');
      else earliest = Math.min(earliest, item.expires);
    }
  }

  function overflow(dropped: Item[], why: Events['overflow']['why']): void {
    for (const item of dropped) tell('overflow', item, { why });
  }

  /** An item will not arrive. */
  function tell(name: 'reject' | 'overflow', { q, data, edit }: Item, why: object): void {
    forget(q, false);
    emit(name, { sequence: q - base, data: outward(data), edit, ...why } as Events['reject'] & Events['overflow']);
  }

  /** An item may be sent once it is kept. */
  function keep(item: Item): void {
    if (durable) store(item);
    else stored = item.q;
  }

  /** Everything up to `q` is settled. */
  function settle(q: number): void {
    need(q < next, `A ${q}`, 4004);
    if (q <= acknowledged) return;
    acknowledged = q;
    // It may have been refused for now and come all the same, sent before that was known.
    expected = Math.max(expected, q + 1);
    retry = createBackoff({}, random);
    remove(0, items.filter((item) => item.q <= q).length);
    forget(q, true);
  }

  function refused({ q, code = 0, reason = '' }: Reject): void {
    const index = items.findIndex((item) => item.q === q);
    if (index < 0) return;
    counters.rejected++;
    tell('reject', remove(index, 1)[0]!, { code, reason });
  }

  /** Writes what can be written now. */
  function flush(now: number): void {
    if (phase === Phase.Ended) return;
    expire(now);
    if (now >= pausedUntil) pausedUntil = Infinity;
    for (let item; isOpen() && (item = items[flying]) && item.q <= stored; ) {
      const { q, data, size, edit } = item;
      if (lifeline ? size > limits.maxMessage : edit) {
        overflow(remove(flying, 1), 'too big');
        continue;
      }
      // One item may always be under way.
      if (pausedUntil < Infinity || (flying && cost + size + ITEM_COST > (lifeline ? limits.window : PLAIN_WINDOW))) break;
      if (lifeline) {
        // What is missing before it was given up.
        if (q > expected) write(`E ${q - 1} from=${expected}`);
        expected = q + 1;
        write(encodeItem(q, takeAck(), data, edit && 'D'));
      } else {
        item.end = given += size;
        write(data);
      }
      flying++;
      cost += size + ITEM_COST;
    }
  }

  /** The acknowledgement that was not told yet, else 0. */
  const takeAck = () => (mark > told ? (told = mark) : 0);

  // The heartbeat.

  /** When to be worried. */
  const silence = () => (answerBy < Infinity ? answerBy : lastReceived + patience);

  function ask(now: number, again = false): void {
    answerBy = now + grace;
    askedAgain = again;
    asked = now;
    say(`I ${++beats}`);
  }

  function listen(now: number): void {
    if (now < silence()) return;
    if (answerBy === Infinity) ask(now);
    else if (now > answerBy + LATE && !askedAgain) ask(now, true);
    else cut(now, 4001, 'no answer');
  }

  /** The connection may be gone: find out soon. */
  function doubt(now: number): void {
    if (isOpen() && lifeline && answerBy === Infinity) ask(now);
  }

  // The session.

  const positions = () => Object.fromEntries([...channels].flatMap(([name, { leaving, at }]) => (at && !leaving ? [[name, at]] : []))) as Record<string, Position>;
  const saved = (): Saved | undefined => (sid ? { sid, tok, s: handled, r: received > handled ? received : undefined, ch: positions() } : undefined);

  function gap(channel: string | null, from: number, to: number | undefined, why: string, sequence = 0): void {
    counters.gaps++;
    emit('gap', { channel, from, to, why }, [sequence && stream, sequence]);
  }

  function deliver(name: 'message' | 'snapshot', data: Data, channel: string | null, sequence: number): void {
    if (replayed != null) replayed++;
    emit(name, { data: outward(data), channel, sequence }, [channel == null ? stream : 0, sequence]);
  }

  function welcome(now: number, { sid: session, tok: token, resumed, why, s0, q = 0, rejected = [], heartbeat: beat, spread: window = 0, limits: most }: Welcome): void {
    if (session !== sid) {
      const from = received + 1;
      stream++;
      received = handled = s0 - 1;
      // Nobody knows what the lost session had for us.
      if (sid) gap(null, from, undefined, why ?? 'unknown');
    }
    sid = session;
    tok = token;
    mark = told = handled;
    limits = most;
    grace = Math.min(GRACE, beat ? beat.timeout * 500 : GRACE);
    patience = beat ? (beat.interval + beat.timeout) * 1000 - grace : Infinity;
    spread = Math.min(window * 1000, LONGEST_SPREAD);
    replayed = resumed ? 0 : undefined;
    if (resumed) counters.resumed++;
    connected(now);
    emit('open', { lifeline, resumed, why });
    if (q >= nextAtHello) {
      // The outbox has lost its end. What it has goes under another id.
      outboxId = rekey();
      gen = 1;
      need(0, `q ${q}`, 4004);
    }
    for (const reject of rejected) if (reject.permanent) refused(reject);
    settle(q);
    for (const [name, { leaving, at }] of channels) if (leaving || !at) say(`${leaving ? 'U' : 'S'} ${escapeName(name)}`);
  }

  function handle(now: number, frame: Frame): void {
    switch (frame.t) {
      case 'A':
        return settle(frame.n);
      case 'I':
        return say(`O ${frame.n}`);
      case 'O':
        if (asked && frame.n === beats) {
          rtt = now - asked;
          asked = 0;
        }
        return;
      case 'R':
        if (replayed != null) emit('resume', { replayed });
        replayed = undefined;
        return;
      case 'M': {
        const { n, q, data } = frame;
        if (q) settle(q);
        if (n <= received) {
          counters.duplicates++;
          // It waits for the application, or was handled and the server does not know.
          if (n <= mark) say(`A ${(told = mark)}`);
        } else {
          need(n === received + 1, `M ${n} after ${received}`, 4004);
          received = n;
          deliver('message', data, null, n);
        }
        return;
      }
      case 'N': {
        const { q, permanent } = frame;
        if (q <= acknowledged || q >= expected) return;
        if (permanent) return refused(frame);
        resend(q);
        expected = q;
        pausedUntil = now + retry.next()!;
        return;
      }
      case 'X':
        leaveAt = now + (frame.after + (frame.window ?? 0) * random()) * 1000;
        elsewhere = frame.url;
        return;
      case 'W':
        return need(0, 'W');
      case 'G':
        if (!frame.channel) {
          const { from, to, why } = frame;
          const last = to ?? from;
          if (last > received) {
            const begin = Math.max(from, received + 1);
            received = last;
            gap(null, begin, to, why, last);
          }
          return;
        }
    }
    const name = frame.t === 'G' ? frame.channel! : frame.ch;
    const channel = channels.get(name) ?? {};
    if (frame.t === 'K') {
      const { st, at } = frame;
      if (at) {
        if (channel.leaving) return;
        channels.set(name, channel);
        if (st !== 'ok') channel.behind = at;
        // What the server sends again from there is known.
        else if (channel.at?.e !== at.e || channel.at.o <= at.o) channel.at = at;
      } else if (st === 'left' && channel.wanted && !channel.leaving) {
        // Asked for again meanwhile: the answer to that is under way.
        channel.at = undefined;
      } else channels.delete(name);
      return emit('subscription', { channel: name, status: st });
    }
    // Left, and the server did not know it yet.
    if (!channels.has(name) || channel.leaving) return;
    if (frame.t === 'G') {
      channel.at = channel.behind ?? channel.at;
      channel.behind = undefined;
      return gap(name, frame.from, frame.to, frame.why);
    }
    const { at, data } = frame;
    if (frame.t === 'C') {
      if (!channel.at) return;
      const { e, o } = channel.at;
      if (e === at.e && at.o <= o) {
        counters.duplicates++;
        return;
      }
      need(e === at.e && at.o === o + 1, `C ${at.o} after ${o}`, 4004);
    }
    channel.at = at;
    if (frame.change) return;
    deliver(frame.t === 'C' ? 'message' : 'snapshot', data, name, at.o);
  }

  return {
    state,
    saved,
    isOpen,
    doubt,
    lost,
    reconnect,
    say,
    items,
    remove,
    store,
    forget,
    tap: (by: Tap) => void (tap = by),
    isLifeline: () => lifeline,
    mode: () => mode,
    /** Messages that wait or are in flight. */
    count: () => items.length,
    /** Whether what an earlier page has left is known. */
    isReady: () => !!outboxId,
    stats: () => ({ state: state(), attempt: dials, lifeline, unacknowledged: items.length, bytes, ...counters, rtt }),

    /** What an earlier page has left; `connect` comes later. Its items go before those of this page. */
    restore({ outbox, gen: generation, next: oldNext, saved: session }: Kept, old: Item[] = []): void {
      outboxId = outbox;
      gen = generation;
      const early = remove(0, items.length);
      base = stored = oldNext - 1;
      next += base;
      old.filter(({ why }) => !why).forEach(append);
      for (const item of early) {
        item.q += base;
        append(item);
        keep(item);
      }
      if (session) {
        mode = 'lifeline';
        ({ sid, tok } = session);
        stream = 1;
        received = handled = session.s;
        for (const [name, at] of Object.entries(session.ch)) channels.set(name, { wanted: true, at });
      }
    },

    /** Items are sent that nobody keeps: the store has failed. */
    forgo(): void {
      durable = false;
      stored = Infinity;
    },

    connect(now: number): void {
      if (phase === Phase.New) dial(now);
    },

    /** The application wants the connection now, or doubts it. */
    wake(now: number): void {
      if (phase === Phase.Waiting || phase === Phase.Dormant) dial(now);
      else doubt(now);
    },

    /** Returns the message's number. Throws where there is no room, or when closed. */
    send(now: number, data: Data, ttl = usualTtl, edit?: true): number {
      if (phase === Phase.Ended) throw Error('closed');
      const length = size(data);
      if (items.length >= limit || bytes + length > mostBytes) throw RangeError('outbox full');
      const item = { q: next++, data, size: length, expires: now + ttl, edit };
      append(item);
      if (outboxId) keep(item);
      pending(now);
      return item.q - base;
    },

    /** Throws where `name` is none of a channel. */
    subscribe(now: number, name: string): void {
      const escaped = escapeName(name);
      const channel = channels.get(name) ?? {};
      channels.set(name, channel);
      if (!channel.wanted || channel.leaving) say(`S ${escaped}`);
      // HELLO did not name it: it has ended, and begins anew behind W.
      if (channel.leaving && phase === Phase.Greeting) channel.at = undefined;
      channel.wanted = true;
      channel.leaving = false;
      pending(now);
    },

    unsubscribe(name: string): void {
      const channel = channels.get(name);
      if (!channel) return;
      say(`U ${escapeName(name)}`);
      if (phase !== Phase.Greeting && !isOpen() && !channel.at) channels.delete(name);
      channel.wanted = false;
      channel.leaving = true;
    },

    refresh(auth: string): void {
      say(`T ${JSON.stringify({ auth })}`);
    },

    /** The WebSocket is open; whether the server selected `lifeline.v1`. */
    opened(now: number, selected: boolean, auth?: string): void {
      if (phase !== Phase.Dialing) return;
      lifeline = selected;
      if (lifeline) {
        mode = 'lifeline';
        phase = Phase.Greeting;
        until = now + WELCOME_TIMEOUT;
        nextAtHello = next;
        expected = items[0]?.q ?? next;
        acknowledged = expected - 1;
        write(`H ${JSON.stringify({ v: 1, auth, resume: saved(), outbox: { id: outboxId, gen, first: expected, next } })}`);
      } else if (trial === Trial.Dialing && mode === 'auto') {
        // It may have come up only now: whoever offers `lifeline.v1` to it again knows.
        trial = Trial.Opened;
        drop(1000, '');
        wait(now, 0, '', 0);
      } else {
        connected(now);
        emit('open', { lifeline, resumed: false });
        flush(now);
      }
    },

    /** A WebSocket message came. */
    message(now: number, data: string | ArrayBuffer): void {
      lastReceived = now;
      answerBy = Infinity;
      if (phase !== Phase.Greeting && !isOpen()) return;
      if (!lifeline) return emit('message', { data, channel: null, sequence: 0 });
      try {
        const frame = decode(data);
        tap?.(frame, data);
        if (!isOpen()) {
          need(frame?.t === 'W');
          welcome(now, frame as Frame & { t: 'W' });
        } else if (frame) handle(now, frame);
        flush(now);
      } catch (error) {
        const { code, message } = error as Violation;
        // Of any other error the JSON of the frame is the cause.
        cut(now, code > 4000 ? code : 4501, message);
      }
    },

    /** The application closes, for good. */
    close(code: number, reason: string): void {
      if (phase === Phase.Ended) return;
      drop(code, reason);
      end(code, reason);
    },

    /** Items up to `q` are kept. */
    stored(now: number, q: number): void {
      stored = Math.max(stored, q);
      flush(now);
    },

    /** The application has handled a message; see {@link Host.emit}. */
    handled(of: number, sequence: number): void {
      if (of === stream && sequence > handled) handled = sequence;
    },

    /** What was handled up to `s` is saved: it is acknowledged. Due 1 s, 32 messages or 64 KiB after it at the latest. */
    settled(s: number): void {
      if (s <= handled) mark = Math.max(mark, s);
      const n = isOpen() && takeAck();
      if (n) say(`A ${n}`);
    },

    /** So many bytes of what was written wait in the plain socket: the rest has left. */
    buffered(now: number, waiting: number): void {
      while (flying && items[0]!.end! <= given - waiting) forget(remove(0, 1)[0]!.q, false);
      flush(now);
    },

    /** Whether {@link buffered} is awaited. */
    isWriting: () => !lifeline && flying > 0,

    timeout(now: number): void {
      if (now >= until) {
        if (phase === Phase.Waiting) dial(now);
        else if (phase === Phase.Dialing || phase === Phase.Greeting) cut(now, 1006, 'no answer');
      }
      if (now >= leaveAt) reconnect(now, 'leave', elsewhere);
      else listen(now);
      flush(now);
    },

    /** When `timeout` wants to be called. */
    deadline: () => Math.min(silence(), leaveAt, pausedUntil, phase === Phase.Dormant ? Infinity : until, flying < items.length && phase !== Phase.Ended ? earliest : Infinity),
  };
}
