/** Messages from `send()` until they are acknowledged (plain peer: written to the socket), in order. */

import type { Data } from './codec.js';

export interface Item {
  q: number;
  data: Data;
  /** Bytes. */
  size: number;
  /** When it is no longer worth sending. */
  expires: number;
}

export interface OutboxOptions {
  /** Messages that wait at most; 10000. */
  limit?: number;
  /** Bytes that wait at most; 16 MiB. */
  bytes?: number;
  /** What becomes of a message that finds no room: `send()` throws, or the oldest or the new one goes to `overflow`. */
  overflow?: 'error' | 'dropOldest' | 'dropNewest';
  /** Milliseconds after which an unsent message goes to `overflow`; default: never where the outbox is kept, else 300000. */
  ttl?: number | undefined;
}

export class Outbox {
  /** The number of the next new item. */
  next = 1;
  /** Bytes of payload. */
  bytes = 0;
  #items: Item[] = [];
  /** How many of them, from the oldest on, are in flight. */
  #flying = 0;
  /** No item expires before. */
  #earliest = Infinity;

  constructor(readonly options: Required<OutboxOptions>) {}

  get length(): number {
    return this.#items.length;
  }

  /** The oldest item that is not acknowledged; `next` when there is none. */
  get first(): number {
    return this.#items[0]?.q ?? this.next;
  }

  /** Puts items of an earlier page before those that are here, which get other numbers: by how much they grow. */
  restore(items: Item[], next: number): number {
    const early = this.drain();
    for (const item of items) this.#append(item);
    for (const item of early) this.#append({ ...item, q: item.q + next - 1 });
    this.next += next - 1;
    return next - 1;
  }

  /** Those that wait or are in flight, from number `q` on. */
  from(q: number): Item[] {
    return this.#items.filter((item) => item.q >= q);
  }

  /** Appends a message; returns its number, and what the policy dropped. Throws where there is no room. */
  push(data: Data, size: number, expires: number): { item: Item; dropped: Item[] } {
    const { limit, bytes, overflow } = this.options;
    const full = (): boolean => this.length >= limit || this.bytes + size > bytes;
    if (size > bytes || (overflow === 'error' && full())) {
      throw new RangeError(`the outbox is full: ${this.length} messages of ${this.bytes} bytes wait, allowed are ${limit} and ${bytes}`);
    }
    const dropped: Item[] = [];
    if (overflow === 'dropOldest') while (full() && this.length > this.#flying) dropped.push(...this.#remove(this.#flying, 1));
    const item = { q: this.next++, data, size, expires };
    if (full()) dropped.push(item);
    else this.#append(item);
    return { item, dropped };
  }

  /** The oldest that waits. */
  peek(): Item | undefined {
    return this.#items[this.#flying];
  }

  /** What {@link peek} gave is in flight. */
  sent(): void {
    this.#flying++;
  }

  /** Everything up to `q` is settled. */
  acknowledge(q: number): void {
    let count = 0;
    while (count < this.length && this.#items[count]!.q <= q) count++;
    this.#remove(0, count);
  }

  /** `q` and what is in flight behind it waits again; without `q` all. */
  resend(q = 0): void {
    while (this.#flying && this.#items[this.#flying - 1]!.q >= q) this.#flying--;
  }

  /** Takes one out. */
  take(q: number): Item | undefined {
    const index = this.#items.findIndex((item) => item.q === q);
    return index < 0 ? undefined : this.#remove(index, 1)[0];
  }

  /** Takes out what waits and has outlived its time. */
  expire(now: number): Item[] {
    if (now < this.#earliest) return [];
    const expired: Item[] = [];
    this.#earliest = Infinity;
    for (let index = this.length - 1; index >= this.#flying; index--) {
      const { expires } = this.#items[index]!;
      if (expires <= now) expired.unshift(...this.#remove(index, 1));
      else this.#earliest = Math.min(this.#earliest, expires);
    }
    // Those in flight may have to wait again.
    for (let index = 0; index < this.#flying; index++) this.#earliest = Math.min(this.#earliest, Math.max(now + 1000, this.#items[index]!.expires));
    return expired;
  }

  /** Takes out everything. */
  drain(): Item[] {
    return this.#remove(0, this.length);
  }

  get deadline(): number {
    return this.#earliest;
  }

  #append(item: Item): void {
    this.#items.push(item);
    this.bytes += item.size;
    this.#earliest = Math.min(this.#earliest, item.expires);
  }

  #remove(index: number, count: number): Item[] {
    const removed = this.#items.splice(index, count);
    for (const { size } of removed) this.bytes -= size;
    this.#flying -= Math.max(0, Math.min(this.#flying - index, count));
    return removed;
  }
}
