/**
 * What outlives a page: the outbox and the session of one tab, in IndexedDB. A tab is known by an id in
 * sessionStorage and owns what belongs to it as long as it holds the Web Lock of that name; a duplicated tab has
 * the id, too, but not the lock.
 */

import type { Item } from './outbox.js';
import type { Saved } from './session.js';

/** What is kept of one tab. */
interface Tab {
  id: string;
  /** Whose outbox it is: which server, which user. */
  scope: string;
  outbox: string;
  gen: number;
  next: number;
  saved?: Saved | undefined;
  /** When it was last used, in ms since 1970. */
  used: number;
}

export interface Changes {
  put: Item[];
  /** `all`: all up to `q`. */
  forget: { q: number; all: boolean }[];
  saved: Saved | undefined;
}

/** Tabs that are gone and have nothing to send are forgotten after a day. */
const FORGET_AFTER = 86400000;
/** A page that is being left may hold the lock for a moment longer than the next one likes. */
const PATIENCE = 500;

export class Store {
  items: Item[] = [];

  private constructor(
    readonly tab: Tab,
    private db: IDBDatabase,
    private durability: IDBTransactionDurability,
    private release: () => void,
  ) {}

  /** The tab's own, or a new one. Fails where the browser keeps nothing. */
  static async open(scope: string, slot: number, durability: IDBTransactionDurability): Promise<Store> {
    const db = await database();
    const name = `lifeline ${scope} ${slot}`;
    let id = sessionStorage.getItem(name);
    let release = id ? await claim(id, PATIENCE) : undefined;
    if (!id || !release) {
      id = randomId();
      sessionStorage.setItem(name, id);
      release = await claim(id, PATIENCE);
      if (!release) throw new Error('no lock');
    }
    return Store.#load(db, id, scope, durability, release);
  }

  /** Whose tabs are gone with something left to send; forgets those that have nothing. */
  async orphans(): Promise<string[]> {
    const tx = this.db.transaction(['tabs', 'items'], 'readwrite');
    const found: string[] = [];
    for (const { id, scope, used } of await result<Tab[]>(tx.objectStore('tabs').getAll())) {
      if (id === this.tab.id || scope !== this.tab.scope) continue;
      if (await result<number>(tx.objectStore('items').count(range(id)))) found.push(id);
      else if (used < Date.now() - FORGET_AFTER) tx.objectStore('tabs').delete(id);
    }
    return found;
  }

  /** Takes a tab over, unless it is alive. */
  async adopt(id: string): Promise<Store | undefined> {
    const release = await claim(id, 0);
    return release && Store.#load(await database(), id, this.tab.scope, this.durability, release);
  }

  static async #load(db: IDBDatabase, id: string, scope: string, durability: IDBTransactionDurability, release: () => void): Promise<Store> {
    const tx = db.transaction(['tabs', 'items'], 'readwrite', { durability });
    const known = await result<Tab | undefined>(tx.objectStore('tabs').get(id));
    const tab: Tab = known ?? { id, scope, outbox: id, gen: 0, next: 1, used: 0 };
    tab.gen++;
    tab.used = Date.now();
    tx.objectStore('tabs').put(tab);
    const store = new Store(tab, db, durability, release);
    store.items = await result<Item[]>(tx.objectStore('items').getAll(range(id)));
    await done(tx);
    return store;
  }

  /** Keeps what is new, in one transaction. */
  async commit({ put, forget, saved }: Changes): Promise<void> {
    const { id } = this.tab;
    const tx = this.db.transaction(['tabs', 'items'], 'readwrite', { durability: this.durability });
    const items = tx.objectStore('items');
    for (const item of put) {
      items.put({ tab: id, ...item });
      this.tab.next = Math.max(this.tab.next, item.q + 1);
    }
    for (const { q, all } of forget) items.delete(all ? range(id, q) : [id, q]);
    this.tab.saved = saved;
    this.tab.used = Date.now();
    tx.objectStore('tabs').put(this.tab);
    return done(tx);
  }

  /** New items belong to a new outbox. */
  rekey(): string {
    this.tab.gen = 1;
    return (this.tab.outbox = randomId());
  }

  /** Lets go of it; `remove`: nothing is left. */
  async close(remove: boolean): Promise<void> {
    try {
      if (remove) {
        const tx = this.db.transaction('tabs', 'readwrite');
        tx.objectStore('tabs').delete(this.tab.id);
        await done(tx);
      }
    } finally {
      this.release();
      this.db.close();
    }
  }
}

/** 132 random bits. */
export function randomId(): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-';
  return Array.from(crypto.getRandomValues(new Uint8Array(22)), (byte) => alphabet[byte & 63]).join('');
}

function range(id: string, to = Infinity): IDBKeyRange {
  return IDBKeyRange.bound([id, 0], [id, to]);
}

async function database(): Promise<IDBDatabase> {
  const request = indexedDB.open('lifeline', 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore('tabs', { keyPath: 'id' });
    request.result.createObjectStore('items', { keyPath: ['tab', 'q'] });
  };
  const db = await result<IDBDatabase>(request);
  db.onversionchange = () => db.close();
  return db;
}

/** The lock of a tab, until what this gives is called; nothing: another has it for `patience` ms. */
function claim(id: string, patience: number): Promise<(() => void) | undefined> {
  return new Promise((resolve, fail) => {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), patience);
    navigator.locks
      .request(`lifeline ${id}`, patience ? { signal: abort.signal } : { ifAvailable: true }, (lock) => {
        clearTimeout(timer);
        if (lock) return new Promise<void>((release) => resolve(release));
        resolve(undefined);
        return undefined;
      })
      .catch((error: unknown) => (abort.signal.aborted ? resolve(undefined) : fail(error as Error)));
  });
}

function result<T>(request: IDBRequest): Promise<T> {
  return new Promise((resolve, fail) => {
    request.onsuccess = () => resolve(request.result as T);
    request.onerror = () => fail(request.error ?? new Error('IndexedDB failed'));
  });
}

function done(tx: IDBTransaction): Promise<void> {
  return new Promise((resolve, fail) => {
    tx.oncomplete = () => resolve();
    tx.onabort = () => fail(tx.error ?? new Error('IndexedDB aborted'));
  });
}
