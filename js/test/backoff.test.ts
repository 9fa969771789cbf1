import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createBackoff, type ReconnectOptions } from '../src/backoff.js';
import { vectors } from './vectors.js';

interface Step {
  /** What the server advertised, in seconds. */
  spread?: number;
  /** The random number that is drawn; missing: none is. */
  u?: number;
  delay?: number | null;
  connected?: number;
  lost?: number;
}

test('delays are those of the vectors', () => {
  for (const { name, options, steps } of vectors<{ name: string; options: Record<string, number>; steps: Step[] }>('backoff.json')) {
    const numbers: number[] = [];
    const scaled = Object.entries(options).map(([key, value]) => [key, key === 'factor' || key === 'maxAttempts' ? value : value * 1000]);
    const backoff = createBackoff(Object.fromEntries(scaled) as ReconnectOptions, () => {
      assert.ok(numbers.length, `${name}: one random number more than the vector has`);
      return numbers.shift()!;
    });
    steps.forEach((step, index) => {
      const where = `${name}: step ${index}`;
      if (step.connected !== undefined) return backoff.begin(step.connected * 1000);
      if (step.lost !== undefined) return void backoff.end(step.lost * 1000);
      if (step.u !== undefined) numbers.push(step.u);
      const delay = backoff.next(step.spread === undefined ? undefined : step.spread * 1000);
      assert.deepEqual(numbers, [], `${where}: the random number was not drawn`);
      if (step.delay === null) assert.equal(delay, undefined, where);
      else assert.ok(Math.abs(delay! - step.delay! * 1000) < 1e-6, `${where}: ${delay} ms`);
    });
  }
});
