// `make serve` in a process of its own, and the browser to look at it.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const root = new URL('../../', import.meta.url);
const { chromium } = createRequire(new URL('js/package.json', root))('playwright-core');

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export async function until(condition, what, ms = 20_000) {
  const end = Date.now() + ms;
  for (;;) {
    if (await condition()) return;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(20);
  }
}

export const browse = () => chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage'] });

export class Served {
  lines = [];

  static async start(environment = {}) {
    const served = new Served();
    served.process = spawn(new URL('scripts/serve.sh', root).pathname, {
      env: { ...process.env, LISTEN: 'ws://127.0.0.1:0', ...environment },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    createInterface({ input: served.process.stdout }).on('line', (line) => served.lines.push(line));
    const address = () => /Open (http\S+)/.exec(served.lines.join('\n'))?.[1];
    await until(() => address() || served.process.exitCode !== null, 'the server is ready');
    if (!address()) throw new Error(`serve.sh has ended with ${served.process.exitCode}`);
    served.url = address();
    return served;
  }

  /** How often a server was started. */
  get starts() {
    return this.lines.filter((line) => line.startsWith('Open ')).length;
  }

  async stop() {
    const gone = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGTERM');
    return gone;
  }
}
