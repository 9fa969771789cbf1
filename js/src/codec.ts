/** Frames of `lifeline.v1` (docs/protocol.md, section 3): what the server sends is read, what a client sends written. */

/** A payload, or a whole WebSocket message: text or bytes. */
export type Data = string | Uint8Array<ArrayBuffer>;

/** A place in a channel's log: behind message `o` of epoch `e`, whose id is `mid`. */
export interface Position {
  e: string;
  o: number;
  mid: string;
}

/** `N`: an item was refused. */
export interface Reject {
  q: number;
  code?: number;
  reason?: string;
  permanent: boolean;
}

/** `W`; durations are seconds. */
export interface Welcome {
  sid: string;
  tok: string;
  resumed: boolean;
  why?: string;
  s0: number;
  q?: number;
  rejected?: Reject[];
  heartbeat?: { interval: number; timeout: number };
  spread?: number;
  limits: { maxMessage: number; window: number };
}

interface Payload {
  data: Data;
}

/** What a server sends, by its type. */
export type Frame =
  | ({ t: 'A' | 'I' | 'M' | 'O' | 'R'; n: number; q: number } & Payload)
  /** `change`: of the channel's document. */
  | ({ t: 'B' | 'C'; ch: string; at: Position; change: boolean } & Payload)
  | { t: 'G'; channel?: string | undefined; from: number; to?: number | undefined; why: string }
  | { t: 'K'; ch: string; st: string; at: Position | undefined }
  | ({ t: 'N' } & Reject)
  | ({ t: 'W' } & Welcome)
  | { t: 'X'; after: number; window?: number; url?: string | undefined };

/** The server broke the protocol; the connection is to be closed with `code`. */
export type Violation = Error & { code: number };
export const violation = (message: string, code = 4501): Violation => Object.assign(Error(message), { code });

const encode = (text: string) => new TextEncoder().encode(text);

/** Bytes of `data` on the wire. */
export const size = (data: Data) => (typeof data === 'string' ? encode(data) : data).length;

/** A channel's name as it stands in a header; throws where it is none. */
export function escapeName(name: string): string {
  checkName(name);
  return name.replace(/[^!-$&-~]/gu, encodeURIComponent);
}

/** Throws a violation where something is not `right`. */
export function need(right: unknown, what = 'frame', code?: number): void {
  if (!right) throw violation(`bad ${what}`, code);
}

function checkName(name: unknown): void {
  need(typeof name === 'string' && name && size(name) < 256 && !/[\p{Cc}\p{Cs}]/u.test(name), 'channel');
}
const integer = (value: unknown, least = 1) => need(Number.isSafeInteger(value) && (value as number) >= least);
const duration = (value = 0) => need(value >= 0 && value <= 31536000);
const key = (value: unknown, most = 22) => need(typeof value === 'string' && /^[\w-]+$/.test(value) && value.length <= most);
function position({ e, o, mid }: Position, least = 0): void {
  key(e);
  integer(o, least);
  key(mid);
}

/** `P` or `D`: an item, with a piggybacked acknowledgement unless `acknowledged` is 0. */
export function item(q: number, acknowledged: number, data: Data, type = 'P'): Data {
  const header = `${type} ${q}${acknowledged ? ` s=${acknowledged}` : ''}\n`;
  return typeof data === 'string' ? header + data : new Uint8Array([...encode(header), ...data]);
}


const MAX_HEADER = 1024;
/** With what later versions may add. */
const HEADER = /^(?:[AIMOR] (\d+)|[BC] ([!-~]+) ([!-~]+) (\d+) ([!-~]+))((?: [!-<>-~]+=[!-~]*)*)$/;

/**
 * Reads a message of the server; nothing: a type that is unknown and to be ignored. What the browser has taken in
 * already is not measured again, and a key that stands twice in JSON goes unnoticed, as it does with any reader there.
 * Throws {@link violation}, or another error where JSON is not at all as it should be.
 */
export function decode(message: string | ArrayBuffer): Frame | undefined {
  const bytes = typeof message === 'string' ? undefined : new Uint8Array(message);
  const text = bytes ? String.fromCharCode(...bytes.subarray(0, MAX_HEADER + 2)) : (message as string);
  const t = /^[A-Za-z0-9]{1,16}(?=[ \n]|$)/.exec(text)?.[0];
  need(t);
  if (!t || t[1] || !'ABCGIKMNORWX'.includes(t)) return undefined;
  if ('GKNWX'.includes(t)) {
    need(!bytes && text[1] === ' ');
    // What is null is not there.
    const frame = { ...JSON.parse(text.slice(2), (_, value: unknown) => value ?? undefined), t } as Frame;
    switch (frame.t) {
      case 'G':
        if (frame.channel !== undefined) checkName(frame.channel);
        integer(frame.from);
        integer(frame.to ?? frame.from, frame.from);
        break;
      case 'K': {
        const { e, o, mid, st } = frame as typeof frame & Position;
        checkName(frame.ch);
        if (/^(ok|gap|snapshot)$/.test(st)) position((frame.at = { e, o, mid: mid ?? '-' }));
        else need(/^(denied|left)$/.test(st) && (e ?? o ?? mid) === undefined);
        break;
      }
      case 'N':
        integer(frame.q);
        break;
      case 'W':
        key(frame.sid, 64);
        key(frame.tok, 64);
        integer(frame.s0);
        integer(frame.q ?? 0, 0);
        integer(frame.limits.maxMessage);
        integer(frame.limits.window);
        if (frame.heartbeat) {
          duration(frame.heartbeat.interval);
          duration(frame.heartbeat.timeout);
        }
        duration(frame.spread);
        break;
      case 'X':
        duration(frame.after);
        duration(frame.window);
    }
    return frame;
  }
  const payload = 'BCM'.includes(t);
  const end = text.slice(0, MAX_HEADER + 1).indexOf('\n');
  need(payload === end > 0 && (payload || (!bytes && text.length <= MAX_HEADER)));
  const [all, first, name = '', e = '', offset, mid = '', options = ''] = HEADER.exec(payload ? text.slice(0, end) : text) ?? [];
  need(all);
  const number = (digits = '', least = 1) => {
    integer(+digits, least);
    need(digits === `${+digits}`);
    return +digits;
  };
  const data: Data = bytes ? bytes.slice(end + 1) : text.slice(end + 1);
  if (first) {
    const q = / q=(\S*)/.exec(options);
    return { t, n: number(first, +(t !== 'R')), q: q && t === 'M' ? number(q[1]) : 0, data } as Frame;
  }
  const at = { e, o: number(offset, +(t === 'C')), mid };
  position(at);
  const ch = decodeURIComponent(name);
  checkName(ch);
  const d = options.match(/ d=\S*/g);
  need(!d || `${d}` === ' d=1');
  return { t, ch, at, data, change: !!d } as Frame;
}
