/**
 * What outlives a page: the outbox and the session of one tab, in IndexedDB. A tab is known by an id in
 * sessionStorage and owns what belongs to it as long as it holds the Web Lock of that name; a duplicated tab has
 * the id, too, but not the lock.
 */

import type { Item, Kept, Saved } from './core.js';

/** What is kept of one tab. */
interface Tab extends Kept {
  id: string;
  /** Whose outbox it is: which server, which user. */
  scope: string;
  /** When it was last used, in ms since 1970. */
  used: number;
}

export interface Store {
  tab: Tab;
  items: Item[];
  /** Keeps what is new, in one transaction. */
  commit(put: Item[], forget: [q: number, all: boolean][], saved: Saved | undefined): Promise<unknown>;
  /** The id of a new outbox, to which all items belong from now on. */
  rekey(): string;
  /** Takes over a tab that is gone and has left something to send; forgets those that have not and are gone for long. */
  adopt(): Promise<Store | undefined>;
  /** Lets go of it; `remove`: nothing is left. */
  close(remove: boolean): Promise<void>;
}

/** A page that is loaded again has just saved, and lets go of its lock for a moment. */
const ADOPT_AFTER = 10000;
/** Tabs that are gone and have nothing to send are forgotten after a day. */
const FORGET_AFTER = 86400000;
/** A page that is being left may hold the lock for a moment longer than the next one likes. */
const PATIENCE = 1000;

/** The tab's own, or a new one. Fails where the browser keeps nothing. */
export async function openStore(scope: string, slot: number, durability: IDBTransactionDurability): Promise<Store> {
  const name = `lifeline ${scope} ${slot}`;
  let id = sessionStorage.getItem(name);
  let release = id && (await claim(id, PATIENCE));
  if (!id || !release) {
    id = randomId();
    sessionStorage.setItem(name, id);
    // Nobody else knows it.
    release = await claim(id, 10000);
    if (!release) throw Error(name);
  }
  return load(id, scope, durability, release);
}

async function load(id: string, scope: string, durability: IDBTransactionDurability, release: () => void): Promise<Store> {
  const request = indexedDB.open('lifeline', 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore('tabs', { keyPath: 'id' });
    request.result.createObjectStore('items', { keyPath: ['tab', 'q'] });
  };
  const db = (await done(request)) as IDBDatabase;
  db.onversionchange = () => db.close();
  const begin = () => {
    const tx = db.transaction(['tabs', 'items'], 'readwrite', { durability });
    return [tx.objectStore('tabs'), tx.objectStore('items'), tx] as const;
  };

  const [tabs, stored, tx] = begin();
  const tab = ((await done(tabs.get(id))) as Tab | undefined) ?? ({ id, scope, outbox: id, gen: 0, next: 1 } as Tab);
  tab.gen++;
  tab.used = Date.now();
  tabs.put(tab);
  const items = (await done(stored.getAll(range(id)))) as Item[];
  await done(tx, 'complete');

  return {
    tab,
    items,

    async commit(put, forget, saved) {
      const [tabs, items, tx] = begin();
      for (const item of put) {
        items.put({ tab: id, ...item });
        tab.next = Math.max(tab.next, item.q + 1);
      }
      for (const [q, all] of forget) items.delete(all ? range(id, 0, q) : [id, q]);
      tab.saved = saved;
      tab.used = Date.now();
      tabs.put(tab);
      return done(tx, 'complete');
    },

    rekey() {
      tab.gen = 1;
      return (tab.outbox = randomId());
    },

    async adopt() {
      const [tabs, items] = begin();
      const found: string[] = [];
      for (const { id: other, scope: of, used } of (await done(tabs.getAll())) as Tab[]) {
        const age = Date.now() - used;
        if (of !== scope || age < ADOPT_AFTER) continue;
        if (await done(items.count(range(other)))) found.push(other);
        else if (age > FORGET_AFTER) tabs.delete(other);
      }
      for (const other of found) {
        const release = await claim(other, 0);
        if (release) return load(other, scope, durability, release);
      }
      return undefined;
    },

    async close(remove) {
      try {
        const [tabs, , tx] = begin();
        if (remove) tabs.delete(id);
        await done(tx, 'complete');
      } catch {
        // A store that is gone keeps what it has.
      }
      release();
      db.close();
    },
  };
}

/** 192 random bits, a few less for two characters that become one. */
export const randomId = () => btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(24)))).replace(/\W/g, '_');

const range = (id: string, from = -Infinity, to = Infinity) => IDBKeyRange.bound([id, from], [id, to]);

/** The lock of a tab, until what this gives is called; nothing: another has it for `patience` ms. */
function claim(id: string, patience: number): Promise<(() => void) | undefined> {
  return new Promise((resolve) => {
    const options = patience ? { signal: AbortSignal.timeout(patience) } : { ifAvailable: true };
    navigator.locks
      .request(`lifeline ${id}`, options, (lock) => (lock ? new Promise<void>((release) => resolve(release)) : resolve(undefined)))
      .catch(() => resolve(undefined));
  });
}

function done(request: IDBRequest | IDBTransaction, event = 'success'): Promise<unknown> {
  return new Promise((resolve, fail) => {
    request.addEventListener(event, () => resolve('result' in request && request.result));
    // A request has no onabort, which does no harm.
    (request as IDBTransaction).onabort = request.onerror = () => fail(request.error);
  });
}
