import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Output, TestCore } from './core.js';
import { createDocuments, type LifelineDocument } from '../src/document.js';
import { documentVectors, vectors } from './vectors.js';

type Step = Record<string, unknown> & { do?: string; client?: string; server?: string; clientEvent?: string; lost?: boolean; close?: number; cut?: boolean };

/** What an application and the store are told, in the words of the transcripts; nothing: they say nothing about it. */
function words(output: Output): string | undefined {
  if (output.type === 'forget') return output.all ? `acknowledged ${output.q}` : undefined;
  const emit = output.type === 'deliver' ? output.emit : output;
  if (emit.type !== 'emit') return undefined;
  switch (emit.name) {
    case 'open':
      return `welcomed resumed=${emit.value.resumed}${emit.value.why ? ` ${emit.value.why}` : ''}`;
    case 'message': {
      const { channel, sequence, data } = emit.value;
      return `${channel === null ? 'message' : `channel ${channel}`} ${sequence} ${String(data)}`;
    }
    case 'snapshot':
      return `snapshot ${emit.value.channel} ${emit.value.sequence} ${String(emit.value.data)}`;
    case 'gap': {
      const { channel, from, to, why } = emit.value;
      return `gap ${channel ?? 'of the session'} ${from}..${to ?? '?'} ${why}`;
    }
    case 'reject':
      return `rejected ${emit.value.sequence} ${emit.value.code} ${emit.value.reason}`;
    case 'subscription':
      return `subscription ${emit.value.channel} ${emit.value.status}`;
    case 'resume':
      return 'replay done';
    case 'close':
      return emit.value.code === 1001 ? 'leave' : undefined;
    default:
      return undefined;
  }
}

/** What this client does not tell: answers to beats, items that go again, refused edits but by their document, replays into a new session. */
function untold(event: string, resumed: boolean, document: boolean): boolean {
  return /^(answered|resend) /.test(event) || (document && event.startsWith('rejected')) || (event === 'replay done' && !resumed);
}

class Player {
  now = 1000;
  test = new TestCore({ outbox: { ttl: Infinity }, random: () => 0.5 });
  core = this.test.core;
  /** What came out and no step has asked for yet. */
  frames: string[] = [];
  events: string[] = [];
  dialing = false;
  linked = false;
  handled: [stream: number, sequence: number][] = [];
  /** What documents want to tell. */
  queue: (() => void)[] = [];
  ids = 0;
  documents = createDocuments({ core: this.core, act: (input) => input(this.now), queue: this.queue, newId: () => `o${++this.ids}`, durable: () => false });
  document: LifelineDocument | undefined;

  constructor() {
    this.core.restore({ outbox: 'outbox1', gen: 1, next: 1 });
    this.core.tap((...input) => {
      this.take();
      this.documents.tap(...input);
    });
  }

  open(conflict: unknown): LifelineDocument {
    const json = (value: unknown): string => (value === undefined ? '-' : JSON.stringify(value));
    const document = this.documents.open('board', { conflict: conflict === 'both' ? ({ mine, theirs }) => [mine ?? null, theirs ?? null] : (conflict as 'clientWins' | undefined) ?? 'serverWins' });
    document.on('change', ({ key, value, local }) => this.events.push(`changed ${key} ${json(value)}${local ? ' by itself' : ''}`));
    document.on('conflict', ({ key, mine, theirs, attempt, resolution }) => this.events.push(`conflict ${key} ${json(mine)} ${json(theirs)} ${attempt} ${resolution}`));
    document.on('refused', ({ key, value, code }) => this.events.push(`refused ${key} ${json(value)} ${code}`));
    document.on('synced', () => this.events.push('synced'));
    return document;
  }

  take(): void {
    this.outputs();
    for (let tell; (tell = this.queue.shift()); ) tell();
    this.outputs();
  }

  outputs(): void {
    for (let output; (output = this.test.outputs.shift()); ) {
      const event = words(output);
      if (event) this.events.push(event);
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
        core.send(this.now, step.data as string, step.expires ? 0 : Infinity);
        break;
      case 'subscribe':
        core.subscribe(this.now, step.channel as string);
        break;
      case 'unsubscribe':
        core.unsubscribe(step.channel as string);
        break;
      case 'client handles':
        for (const [stream, sequence] of this.handled.splice(0)) {
          core.handled(stream, sequence);
        }
        core.settled((core.saved()?.s ?? 0));
        break;
      case 'client beats':
        core.doubt(this.now);
        break;
      case 'document':
        this.document = this.open(step.conflict);
        break;
      case 'edit':
        this.document!.set(step.key as string, step.value as string);
        break;
      case 'delete':
        this.document!.delete(step.key as string);
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

for (const { name, steps } of [...vectors<{ name: string; steps: Step[] }>('dialogues.json'), ...documentVectors<{ name: string; steps: Step[] }>('dialogues')]) {
  test(`dialogue: ${name}`, () => {
    const player = new Player();
    let ofAnother = false;
    let resumed = false;
    for (const [index, step] of steps.entries()) {
      const where = `step ${index} ${JSON.stringify(step)}`;
      if (step.do) {
        ofAnother ||= step.do === 'cut, unseen by the server';
        player.act({ ...step, expires: steps[index + 1]?.do === 'expire' });
      } else if (step.client !== undefined) assert.equal(player.frames.shift(), step.client, where);
      else if (step.clientEvent !== undefined) {
        if (step.clientEvent.startsWith('welcomed')) resumed = step.clientEvent === 'welcomed resumed=true';
        if (!untold(step.clientEvent, resumed, !!player.document)) assert.equal(player.events.shift(), step.clientEvent, where);
      } else if (step.cut) player.act({ do: 'cut' });
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
