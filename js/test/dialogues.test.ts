import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Core } from '../src/core.js';
import type { SessionEvent } from '../src/session.js';
import { vectors } from './vectors.js';

type Step = Record<string, unknown> & { do?: string; client?: string; server?: string; clientEvent?: string; lost?: boolean; close?: number; cut?: boolean };

/** An event as the transcripts tell it. */
function words(event: SessionEvent): string {
  switch (event.type) {
    case 'acknowledged':
      return `acknowledged ${event.q}`;
    case 'answered':
      return `answered ${event.n}`;
    case 'message':
      return event.channel === null ? `message ${event.sequence} ${String(event.data)}` : `channel ${event.channel} ${event.sequence} ${String(event.data)}`;
    case 'snapshot':
      return `snapshot ${event.channel} ${event.sequence} ${String(event.data)}`;
    case 'gap': {
      const { channel, from, to, why } = event.gap;
      return `gap ${channel ?? 'of the session'} ${from}..${to ?? '?'} ${why}`;
    }
    case 'leave':
      return 'leave';
    case 'diverged':
      return `outbox diverged ${event.q}`;
    case 'rejected':
      return `rejected ${event.reject.q} ${event.reject.code} ${event.reject.reason}`;
    case 'replayed':
      return 'replay done';
    case 'resend':
      return `resend ${event.q}`;
    case 'subscription':
      return `subscription ${event.channel} ${event.status}`;
    case 'welcomed':
      return `welcomed resumed=${event.resumed}${event.why ? ` ${event.why}` : ''}`;
  }
}

class Player {
  now = 1000;
  core = new Core({ outbox: { ttl: Infinity }, random: () => 0.5 });
  /** What came out and no step has asked for yet. */
  frames: string[] = [];
  events: string[] = [];
  dialing = false;
  linked = false;
  handled: [stream: number, sequence: number][] = [];

  constructor() {
    this.core.restore('outbox1', 1, [], 1, undefined);
    const { events } = this.core.session;
    events.push = (...list: SessionEvent[]) => {
      this.events.push(...list.map(words));
      return Array.prototype.push.apply(events, list);
    };
  }

  take(): void {
    for (let output; (output = this.core.outputs.shift()); ) {
      if (output.type === 'dial') this.dialing = true;
      else if (output.type === 'drop') this.linked = false;
      else if (output.type === 'write') this.frames.push(String(output.data));
      else if (output.type === 'deliver' && output.stream) this.handled.push([output.stream, output.sequence]);
    }
  }

  /** Something that happens at this end. */
  act(step: Step): void {
    const { core } = this;
    switch (step.do) {
      case 'connect':
        core.connect(this.now);
        core.wake(this.now);
        this.take();
        assert.ok(this.dialing, 'a dial');
        this.dialing = false;
        this.linked = true;
        core.opened(this.now, true);
        break;
      case 'cut':
      case 'cut, unseen by the server':
      case 'restart server':
        if (this.linked) core.lost(this.now, 1006, '');
        this.linked = false;
        break;
      case 'send':
        core.send(this.now, step.data as string);
        break;
      case 'expire':
        core.outbox.take(core.outbox.next - 1);
        break;
      case 'subscribe':
        core.subscribe(this.now, step.channel as string);
        break;
      case 'unsubscribe':
        core.unsubscribe(this.now, step.channel as string);
        break;
      case 'client handles':
        for (const [stream, sequence] of this.handled.splice(0)) {
          core.handled(stream, sequence);
          core.saved(this.now, sequence, 0, false);
        }
        core.saved(this.now, 0, 0);
        break;
      case 'client beats':
        core.doubt(this.now);
        break;
      case 'sleep':
        this.now += (step.seconds as number) * 1000;
        core.timeout(this.now);
        break;
      default:
    }
    this.take();
  }
}

for (const { name, steps } of vectors<{ name: string; steps: Step[] }>('dialogues.json')) {
  test(`dialogue: ${name}`, () => {
    const player = new Player();
    let ofAnother = false;
    for (const [index, step] of steps.entries()) {
      const where = `step ${index} ${JSON.stringify(step)}`;
      if (step.do) {
        ofAnother ||= step.do === 'cut, unseen by the server';
        player.act(step);
      } else if (step.client !== undefined) assert.equal(player.frames.shift(), step.client, where);
      else if (step.clientEvent !== undefined) assert.equal(player.events.shift(), step.clientEvent, where);
      else if (step.cut) player.act({ do: 'cut' });
      else if (step.close !== undefined) {
        // The server closes the connection whose end it has not seen.
        if (!ofAnother && player.linked) {
          player.linked = false;
          player.core.lost(player.now, step.close, '');
          player.take();
        }
        ofAnother = false;
      } else if (step.server !== undefined && !step.lost) {
        player.core.message(player.now, step.server);
        player.take();
      }
    }
    assert.deepEqual([player.frames, player.events], [[], []], 'nothing but what the vector says');
  });
}
