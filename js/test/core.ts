/** The core with what it asks for as a list. */

import type { Data } from '../src/codec.js';
import { type Core, type CoreOptions, createCore, type Events, type Item, type Saved } from '../src/core.js';

export type Emit = { [K in keyof Events]: { type: 'emit'; name: K; value: Events[K] } }[keyof Events];

export type Output =
  | Emit
  | { type: 'deliver'; emit: Emit; stream: number; sequence: number }
  | { type: 'dial'; plain: boolean; fresh: boolean; url: string | undefined }
  | { type: 'drop'; code: number; reason: string }
  | { type: 'write'; data: Data }
  | { type: 'store'; item: Item }
  | { type: 'forget'; q: number; all: boolean }
  | { type: 'rekey' }
  | { type: 'ended' };

export class TestCore {
  outputs: Output[] = [];
  core: Core;

  constructor(options: CoreOptions) {
    const push = (output: Output): void => void this.outputs.push(output);
    this.core = createCore(options, {
      dial: (plain, fresh, url) => push({ type: 'dial', plain, fresh, url }),
      drop: (code, reason) => push({ type: 'drop', code, reason }),
      write: (data) => push({ type: 'write', data }),
      store: (item) => push({ type: 'store', item: { ...item } }),
      forget: (q, all) => push({ type: 'forget', q, all }),
      rekey: () => (push({ type: 'rekey' }), 'outbox-of-rekey'),
      ended: () => push({ type: 'ended' }),
      emit: (name, value, handled) => {
        const emit = { type: 'emit', name, value } as Emit;
        if (!handled) return push(emit);
        const [stream, sequence] = handled;
        push({ type: 'deliver', emit, stream, sequence });
      },
    });
  }

  get state(): string {
    return this.core.state();
  }

  get length(): number {
    return this.core.stats().unacknowledged;
  }

  saved(): Saved | undefined {
    return this.core.saved();
  }
}
