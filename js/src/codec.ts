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
  code: number;
  reason: string;
  permanent: boolean;
}

/** `W`; durations are seconds. */
export interface Welcome {
  sid: string;
  tok: string;
  resumed: boolean;
  why?: string;
  s0: number;
  q: number;
  rejected: Reject[];
  heartbeat?: { interval: number; timeout: number };
  spread: number;
  limits: { maxMessage: number; window: number };
}

export type Status = 'ok' | 'gap' | 'snapshot' | 'denied' | 'left';

/** What a server sends, by its type. */
export type Frame =
  | { t: 'A' | 'I' | 'O' | 'R'; n: number }
  | { t: 'M'; n: number; q: number; data: Data }
  | { t: 'B' | 'C'; ch: string; at: Position; data: Data }
  | { t: 'G'; channel: string | null; from: number; to: number | undefined; why: string }
  | { t: 'K'; ch: string; st: Status; at: Position | undefined }
  | ({ t: 'N' } & Reject)
  | ({ t: 'W' } & Welcome)
  | { t: 'X'; after: number; window: number; url: string | undefined };

/** The server broke the protocol or a limit; the connection is to be closed with `code`. */
export class Violation extends Error {
  constructor(
    message: string,
    readonly code = 4501,
  ) {
    super(message);
  }
}

const MAX_HEADER = 1024;
const MAX_JSON = 131072;

/** Bytes of `data` on the wire. */
export function size(data: Data): number {
  if (typeof data !== 'string') return data.length;
  let bytes = data.length;
  for (let i = 0; i < data.length; i++) {
    const unit = data.charCodeAt(i);
    // Two units of a pair are four bytes; half of one is sent as U+FFFD, three bytes.
    if (unit > 0x7f) bytes += unit < 0x800 ? 1 : unit >> 10 === 0x36 && data.charCodeAt(i + 1) >> 10 === 0x37 ? (i++, 2) : 2;
  }
  return bytes;
}

/** A channel's name as it stands in a header; throws where it is none. */
export function escapeName(name: string): string {
  checkName(name);
  return name.replace(/[^!-$&-~]/gu, encodeURIComponent);
}

function checkName(name: unknown): string {
  if (typeof name !== 'string' || !name || size(name) > 255 || /[\0-\x1f\x7f-\x9f\ud800-\udfff]/u.test(name)) {
    throw new Violation("a channel's name has 1 to 255 bytes of UTF-8 and no control characters");
  }
  return name;
}

/** `P`: an item, with a piggybacked acknowledgement unless `acknowledged` is 0. */
export function item(q: number, acknowledged: number, data: Data): Data {
  const header = `P ${q}${acknowledged ? ` s=${acknowledged}` : ''}\n`;
  if (typeof data === 'string') return header + data;
  const bytes = new Uint8Array(header.length + data.length);
  new TextEncoder().encodeInto(header, bytes);
  bytes.set(data, header.length);
  return bytes;
}

/**
 * Reads a message of the server whose payloads have at most `max` bytes; nothing: a type that is unknown and
 * to be ignored. A key that stands twice in JSON goes unnoticed, as it does with any reader in browsers.
 */
export function decode(message: string | ArrayBuffer, max: number): Frame | undefined {
  const bytes = typeof message === 'string' ? undefined : new Uint8Array(message);
  const text = bytes ? String.fromCharCode(...bytes.subarray(0, MAX_HEADER + 2)) : (message as string);
  const t = /^[A-Za-z0-9]{1,16}(?=[ \n]|$)/.exec(text)?.[0];
  const bad = (problem: string, code?: number): never => {
    throw new Violation(`${t ?? 'frame'}: ${problem}`, code);
  };
  if (!t) return bad('no type');
  const plain = 'AIOR'.includes(t);
  if (t.length > 1 || !'ABCGIKMNORWX'.includes(t)) return undefined;
  if (plain || 'BCM'.includes(t)) {
    const end = text.slice(0, MAX_HEADER + 1).indexOf('\n');
    const header = plain ? text : text.slice(0, end);
    if ((end < 0) !== plain || header.length > MAX_HEADER) bad('no header, or one that is too long');
    const fields = header.split(' ');
    if (/[^ -~]/.test(header) || fields.includes('')) bad('not single spaces and printable ASCII');
    const integer = (text: string | undefined, least: number): number => {
      const n = Number(text);
      if (!text || !/^(0|[1-9]\d*)$/.test(text) || n < least || !Number.isSafeInteger(n)) bad('not an integer in range');
      return n;
    };
    const id = (text: string | undefined): string => key(text, 22);
    const options = fields.slice('BC'.includes(t) ? 5 : 2);
    let q = 0;
    for (const option of options) {
      const at = option.indexOf('=');
      if (at < 1) bad('a field too many');
      if (t === 'M' && option.slice(0, at) === 'q') {
        if (q) bad('q stands there twice');
        q = integer(option.slice(2), 1);
      }
    }
    if (plain) return { t, n: integer(fields[1], t === 'R' ? 0 : 1) } as Frame;
    const data: Data = bytes ? bytes.slice(end + 1) : text.slice(end + 1);
    if (data.length * 3 > max && size(data) > max) bad('payload too big', 4504);
    if (t === 'M') return { t, n: integer(fields[1], 1), q, data };
    let ch = '';
    try {
      ch = decodeURIComponent(fields[1] ?? '');
    } catch {
      bad('not percent-encoded UTF-8');
    }
    const at = { e: id(fields[2]), o: integer(fields[3], t === 'C' ? 1 : 0), mid: id(fields[4]) };
    return { t: t as 'B' | 'C', ch: checkName(ch), at, data };
  }

  if (bytes || text[1] !== ' ') bad('not text with JSON');
  if (size(text) > MAX_JSON + 2) bad('JSON too long', 4504);
  let body: Record<string, unknown> = {};
  try {
    body = JSON.parse(text.slice(2)) as typeof body;
  } catch {
    bad('no JSON');
  }
  const fields = object(body);
  switch (t) {
    case 'G': {
      const { channel } = body;
      const [from, to] = [number(body.from), body.to == null ? undefined : number(body.to)];
      if (to && to < from) bad('to is less than from');
      return { t, channel: channel == null ? null : checkName(channel), from, to, why: string(body.why) };
    }
    case 'K': {
      const st = string(body.st) as Status;
      const placed = ['ok', 'gap', 'snapshot'].includes(st);
      if (!placed && ((st !== 'denied' && st !== 'left') || body.e != null || body.o != null || body.mid != null)) bad('st');
      const { e, o, mid } = body;
      const at = placed ? { e: key(e, 22), o: number(o, 0), mid: key(mid ?? '-', 22) } : undefined;
      return { t, ch: checkName(body.ch), st, at };
    }
    case 'N':
      return { t, ...reject(fields) };
    case 'W': {
      const { heartbeat, why } = body;
      const limits = object(body.limits);
      const welcome: Frame = {
        t,
        sid: key(body.sid, 64),
        tok: key(body.tok, 64),
        resumed: boolean(body.resumed),
        s0: number(body.s0),
        q: number(body.q ?? 0, 0),
        rejected: ((body.rejected ?? []) as unknown[]).map(reject),
        spread: duration(body.spread),
        limits: { maxMessage: number(limits.maxMessage), window: number(limits.window) },
      };
      if (why != null) welcome.why = string(why);
      if (heartbeat != null) {
        const { interval, timeout } = object(heartbeat);
        welcome.heartbeat = { interval: duration(interval), timeout: duration(timeout) };
      }
      return welcome;
    }
    default:
      return {
        t: 'X',
        after: duration(body.after),
        window: duration(body.window),
        url: body.url == null ? undefined : string(body.url),
      };
  }
}

function need<T>(value: T, right: boolean): T {
  if (!right) throw new Violation(`a value in JSON or a header that is not allowed: ${JSON.stringify(value)?.slice(0, 40)}`);
  return value;
}
const object = (value: unknown) => need(value as Record<string, unknown>, !!value && typeof value === 'object');
const string = (value: unknown) => need(value as string, typeof value === 'string');
const boolean = (value: unknown) => need(value as boolean, typeof value === 'boolean');
const number = (value: unknown, least = 1) => need(value as number, Number.isSafeInteger(value) && (value as number) >= least);
const duration = (value: unknown = 0) => need(value as number, typeof value === 'number' && value >= 0 && value <= 31536000);
const key = (value: unknown, most: number) => need(value as string, /^[\w-]+$/.test(string(value)) && string(value).length <= most);

function reject(value: unknown): Reject {
  const { q, code = 0, reason = '', permanent } = object(value);
  return { q: number(q), code: need(code as number, ((code as number) | 0) === code), reason: string(reason), permanent: boolean(permanent) };
}
