/** What a browser has and Node has not: tabs with their sessionStorage, shared IndexedDB and Web Locks. */

import 'fake-indexeddb/auto';
import { WebSocket } from 'ws';
import type { LifelineOptions } from '../src/lifeline.js';

type Callback = (lock: object | null) => unknown;
interface Request {
  owner: Tab;
  callback: Callback;
  resolve: (value: unknown) => void;
  fail: (error: unknown) => void;
}

const held = new Map<string, Tab>();
const waiting = new Map<string, Request[]>();
const database = indexedDB;

function grant(name: string): void {
  if (held.has(name)) return;
  const request = waiting.get(name)?.shift();
  if (!request) return;
  held.set(name, request.owner);
  void Promise.resolve(request.callback({ name }))
    .finally(() => {
      if (held.get(name) === request.owner) held.delete(name);
      grant(name);
    })
    .then(request.resolve, request.fail);
}

export class Tab {
  alive = true;
  sockets = new Set<WebSocket>();
  databases: IDBDatabase[] = [];
  storage: Map<string, string>;

  /** Duplicated from another one, it has a copy of its sessionStorage. */
  constructor(from?: Tab) {
    this.storage = new Map(from?.storage);
  }

  /** What runs now runs in this tab. */
  enter(): this {
    const { storage } = this;
    const define = (name: string, value: unknown): void => void Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    define('sessionStorage', { getItem: (key: string) => storage.get(key) ?? null, setItem: (key: string, value: string) => void storage.set(key, value) });
    define('indexedDB', {
      open: (...parameters: Parameters<IDBFactory['open']>) => {
        const request = database.open(...parameters);
        request.addEventListener('success', () => this.databases.push(request.result));
        return request;
      },
    });
    define('navigator', {
      locks: {
        request: (name: string, options: { signal?: AbortSignal; ifAvailable?: boolean }, callback: Callback) =>
          new Promise((resolve, fail) => {
            const request = { owner: this, callback, resolve, fail };
            if (options.ifAvailable && held.has(name)) return resolve(callback(null));
            waiting.set(name, [...(waiting.get(name) ?? []), request]);
            options.signal?.addEventListener('abort', () => {
              const list = waiting.get(name) ?? [];
              if (!list.includes(request)) return;
              list.splice(list.indexOf(request), 1);
              fail(new DOMException('aborted', 'AbortError'));
            });
            queueMicrotask(() => grant(name));
          }),
      },
    });
    return this;
  }

  /** The browser's process of this tab is gone: its locks are free, its sockets end, it writes no more. */
  crash(): void {
    this.alive = false;
    for (const database of this.databases) database.close();
    for (const socket of this.sockets) {
      socket.removeAllListeners();
      socket.on('error', () => undefined);
      socket.terminate();
    }
    for (const [name, owner] of held) {
      if (owner !== this) continue;
      held.delete(name);
      grant(name);
    }
  }

  /** A WebSocket as this tab has it. */
  get options(): LifelineOptions {
    const { sockets } = this;
    // eslint-disable-next-line @typescript-eslint/no-this-alias
    const tab = this;
    return {
      WebSocket: class extends WebSocket {
        constructor(url: string, protocols: string[]) {
          super(tab.alive ? url : 'ws://127.0.0.1:1', protocols);
          sockets.add(this);
        }
      } as unknown as NonNullable<LifelineOptions['WebSocket']>,
    };
  }
}
