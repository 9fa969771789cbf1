// What stands at the other end of the pages, and between.
import { spawn } from 'node:child_process';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { until } from './served.mjs';

/** A PHP script of this directory in a process of its own: it is told and tells lines of JSON. */
export class Php {
  events = [];

  static async start(script, ...given) {
    const php = new Php();
    const { PHP, MODULE } = process.env;
    php.process = spawn(PHP, ['-n', '-d', `extension=${MODULE}`, new URL(script, import.meta.url).pathname, ...given], { stdio: ['pipe', 'pipe', 'inherit'] });
    php.process.stdin.on('error', () => undefined);
    createInterface({ input: php.process.stdout }).on('line', (line) => php.events.push(JSON.parse(line)));
    try {
      await until(() => php.of('ready').length || php.process.exitCode !== null, `${script} is ready`);
      if (php.process.exitCode !== null) throw new Error(`${script} has ended with ${php.process.exitCode}`);
    } catch (error) {
      php.process.kill('SIGKILL');
      throw error;
    }
    return php;
  }

  /** Where a server listens. */
  get address() {
    return this.of('ready')[0].address;
  }

  of(event) {
    return this.events.filter((e) => e.event === event);
  }

  get messages() {
    return this.of('message').map(({ data }) => data);
  }

  do(op, more = {}) {
    this.process.stdin.write(`${JSON.stringify({ op, ...more })}\n`);
  }

  /** What it answers, in an event of the same name. */
  async ask(op) {
    const before = this.of(op).length;
    this.do(op);
    await until(() => this.of(op).length > before, `an answer to ${op}`);
    return this.of(op)[before];
  }

  async kill() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGKILL');
    await gone;
  }
}

/** What stands between: connections can be cut, or carry nothing for a while, or not come about. */
export class Link {
  sockets = new Set();
  /** Pieces that went through. */
  carried = 0;
  /** Connections pass for alive, and what is sent is lost. */
  frozen = false;
  /** What was lost so, to the server and from it. */
  lost = { up: Buffer.alloc(0), down: Buffer.alloc(0) };
  /** New connections end at once. */
  down = false;

  static async start(target) {
    const link = new Link();
    link.target = new URL(target);
    link.server = net.createServer((near) => {
      near.on('error', () => undefined);
      if (link.down) return near.destroy();
      const far = net.connect(Number(link.target.port), '127.0.0.1');
      for (const [from, to, way] of [[near, far, 'up'], [far, near, 'down']]) {
        link.sockets.add(from);
        from.on('data', (data) => (link.frozen ? (link.lost[way] = Buffer.concat([link.lost[way], data])) : (link.carried++, to.write(data))));
        from.on('error', () => undefined);
        from.on('close', () => {
          link.sockets.delete(from);
          to.destroy();
        });
      }
    });
    await new Promise((resolve) => link.server.listen(0, '127.0.0.1', resolve));
    link.url = `ws://127.0.0.1:${link.server.address().port}`;
    return link;
  }

  cut() {
    for (const socket of this.sockets) socket.destroy();
  }

  close() {
    this.down = true;
    this.cut();
    this.server.close();
  }
}
