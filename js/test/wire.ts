/** The other end's half of the codec, strict: what clients send is read, what servers send is written. */

import { type Data, escapeName, item, type Position, size } from '../src/codec.js';

export class Bad extends Error {
  constructor(
    message: string,
    readonly code = 4501,
  ) {
    super(message);
  }
}

interface Range {
  id: string;
  gen: number;
  first: number;
  next: number;
}
export interface Hello {
  v: number;
  auth?: string;
  resume?: { sid: string; tok: string; s: number; r?: number; ch: Record<string, Position> };
  outbox?: Range;
}
export type ClientFrame =
  | { t: 'A' | 'I' | 'O'; n: number }
  | { t: 'E'; n: number; from: number | undefined }
  | { t: 'P' | 'D'; n: number; s: number; data: Data }
  | { t: 'V'; ch: string; place: string }
  | { t: 'S' | 'U'; ch: string }
  | { t: 'T'; auth: string }
  | { t: 'H'; hello: Hello };

function integer(value: string | undefined, least = 1): number {
  if (!value || !/^(0|[1-9]\d*)$/.test(value) || !Number.isSafeInteger(Number(value)) || Number(value) < least) throw new Bad(`${value} is no integer`);
  return Number(value);
}
function counted(value: unknown, least = 1): number {
  if (!Number.isSafeInteger(value) || (value as number) < least) throw new Bad(`${String(value)} is no integer`);
  return value as number;
}
function key(value: unknown, most: number): string {
  if (typeof value !== 'string' || !/^[\w-]+$/.test(value) || value.length > most) throw new Bad(`${String(value)} is no key`);
  return value;
}
function only(body: object, ...keys: string[]): void {
  for (const name of Object.keys(body)) if (!keys.includes(name)) throw new Bad(`${name} is unknown, this client never sends it`);
}

export function readClientFrame(message: Data, max: number, strict = false): ClientFrame | undefined {
  const text = typeof message === 'string' ? message : Buffer.from(message).toString('latin1');
  const t = /^[A-Za-z0-9]{1,16}(?=[ \n]|$)/.exec(text.slice(0, 20))?.[0];
  if (!t) throw new Bad('no type');
  if (!['A', 'D', 'E', 'H', 'I', 'O', 'P', 'S', 'T', 'U', 'V'].includes(t)) return undefined;
  const json = t === 'H' || t === 'T';
  const item = t === 'P' || t === 'D';
  if (t !== 'P' && typeof message !== 'string') throw new Bad('binary');
  if (json) {
    if (text[1] !== ' ') throw new Bad('no JSON');
    if (size(text) > 131074) throw new Bad('too long', 4504);
    let body: Record<string, unknown>;
    try {
      body = JSON.parse(text.slice(2)) as typeof body;
    } catch {
      throw new Bad('no JSON');
    }
    if ((text.match(/"v":/g) ?? []).length > 1) throw new Bad('v stands there twice');
    if (t === 'T') {
      if (typeof body.auth !== 'string') throw new Bad('auth');
      return { t, auth: body.auth };
    }
    if (counted(body.v) !== 1) throw new Bad('version', 4505);
    const { v, auth, resume, outbox } = body as unknown as Hello;
    if (strict) only(body, 'v', 'auth', 'resume', 'outbox');
    if (outbox) {
      key(outbox.id, 64);
      counted(outbox.gen);
      if (counted(outbox.next) < counted(outbox.first)) throw new Bad('next is less than first');
    }
    if (resume) {
      key(resume.sid, 64);
      key(resume.tok, 64);
      counted(resume.s, 0);
      if (resume.r != null && counted(resume.r) <= resume.s) throw new Bad('r is not greater than s, this client never sends it');
      for (const at of Object.values(resume.ch)) {
        key(at.e, 22);
        counted(at.o, 0);
        key(at.mid, 22);
      }
    }
    return { t, hello: JSON.parse(JSON.stringify({ v, auth, resume, outbox })) as Hello };
  }
  const end = item ? text.indexOf('\n') : text.length;
  const header = text.slice(0, end);
  if (end < 0 || end > 1024 || /[^ -~]/.test(header)) throw new Bad('header');
  const fields = header.split(' ');
  if (fields.includes('')) throw new Bad('spaces');
  const options: Record<string, string> = {};
  for (const option of fields.slice(t === 'V' ? 5 : 2)) {
    const at = option.indexOf('=');
    if (at < 1 || option.slice(0, at) in options) throw new Bad(`option ${option}`);
    options[option.slice(0, at)] = option.slice(at + 1);
  }
  switch (t) {
    case 'A':
    case 'I':
    case 'O':
      return { t, n: integer(fields[1]) };
    case 'E': {
      const n = integer(fields[1]);
      const from = options.from === undefined ? undefined : integer(options.from);
      if (from !== undefined && from > n) throw new Bad('from');
      return { t, n, from };
    }
    case 'P':
    case 'D': {
      const data = typeof message === 'string' ? message.slice(end + 1) : message.slice(end + 1);
      const s = options.s === undefined ? 0 : integer(options.s);
      const n = integer(fields[1]);
      if (size(data) > max) throw new Bad('too big', 4504);
      return { t: t, n, s, data };
    }
    case 'V': {
      const [, name = '', epoch, version, digest] = fields;
      key(epoch, 22);
      integer(version, 0);
      if (!/^[\da-f]{8}$/.test(digest ?? '')) throw new Bad('digest');
      return { t, ch: decodeURIComponent(name), place: `${epoch} ${version} ${digest}` };
    }
    default: {
      try {
        const ch = decodeURIComponent(fields[1] ?? '');
        escapeName(ch);
        return { t: t as 'S' | 'U', ch };
      } catch {
        throw new Bad('name');
      }
    }
  }
}

/** As the product writes it. */
export function writeClientFrame(frame: ClientFrame): Data {
  switch (frame.t) {
    case 'E':
      return `E ${frame.n}${frame.from === undefined ? '' : ` from=${frame.from}`}`;
    case 'H':
      return `H ${JSON.stringify(frame.hello)}`;
    case 'P':
    case 'D':
      return item(frame.n, frame.s, frame.data, frame.t);
    case 'V':
      return `V ${escapeName(frame.ch)} ${frame.place}`;
    case 'S':
    case 'U':
      return `${frame.t} ${escapeName(frame.ch)}`;
    case 'T':
      return `T ${JSON.stringify({ auth: frame.auth })}`;
    default:
      return `${frame.t} ${frame.n}`;
  }
}

export function withPayload(header: string, data: Data): Data {
  return typeof data === 'string' ? `${header}\n${data}` : new Uint8Array([...Buffer.from(`${header}\n`), ...data]);
}

/** As a WebSocket gives it. */
export function received(data: Data): string | ArrayBuffer {
  return typeof data === 'string' ? data : data.slice().buffer;
}

/** The payload of D. */
export interface Edit {
  ch: string;
  k: string;
  v?: unknown;
  id: string;
  e?: string;
  if?: number;
  after?: string;
}

const depth = (value: unknown): number => (value && typeof value === 'object' ? 1 + Math.max(0, ...Object.values(value).map(depth)) : 0);

export function readEdit(text: string): Edit {
  const edit = JSON.parse(text) as Edit;
  escapeName(edit.ch);
  if (typeof edit.k !== 'string' || !edit.k || size(edit.k) > 255) throw new Bad('key');
  key(edit.id, 22);
  if (edit.if !== undefined) {
    if (edit.after !== undefined) throw new Bad('if and after');
    if (counted(edit.if, 0)) key(edit.e, 22);
  }
  if (edit.after !== undefined) key(edit.after, 22);
  if (depth(edit.v) > 64) throw new Bad('too deep');
  return edit;
}
