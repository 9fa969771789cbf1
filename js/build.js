// Builds dist/ (the module and its types) or, with `test`, build/test/ (the tests, for Node's runner).
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const common = { bundle: true, format: 'esm', target: 'es2022', sourcemap: true, logLevel: 'warning' };
/** Bytes of dist/lifeline.js, compressed. */
const LIMIT = 12288;

if (process.argv[2] === 'test') {
  rmSync('build', { recursive: true, force: true });
  const entryPoints = readdirSync('test').filter((name) => name.endsWith('.test.ts')).map((name) => `test/${name}`);
  await build({ ...common, entryPoints, outdir: 'build/test', platform: 'node', packages: 'external', outExtension: { '.js': '.mjs' } });
} else {
  rmSync('dist', { recursive: true, force: true });
  await build({ ...common, entryPoints: ['src/index.ts'], outfile: 'dist/lifeline.js', minify: true, platform: 'browser' });
  execFileSync('node', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json'], { stdio: 'inherit' });
  const code = readFileSync('dist/lifeline.js');
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`dist/lifeline.js: ${code.length} bytes minified, ${size} compressed, ${LIMIT} allowed`);
  if (size >= LIMIT) process.exit(1);
}
