import { readFileSync } from 'node:fs';

/** The vectors that all implementations play, by file name. */
export function vectors<T>(name: string): T[] {
  const list = JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}`, import.meta.url), 'utf8')) as T[];
  if (!list.length) throw new Error(`${name} is empty`);
  return list;
}

/** Those of documents. */
export function documentVectors<T>(part: 'dialogues' | 'digests' | 'frames' | 'payloads'): T[] {
  const all = JSON.parse(readFileSync(new URL('../../../tests/vectors/documents.json', import.meta.url), 'utf8')) as Record<string, T[]>;
  if (!all[part]?.length) throw new Error(`${part} are empty`);
  return all[part];
}

/** Numbers from 0 up to 1, the same in each run (mulberry32). */
export function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
