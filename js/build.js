// Builds dist/ (the module and its types); with `embed` also the copy that is part of the extension; or, with `test`,
// build/test/ (the tests, for Node's runner).
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { minify } from 'terser';

const common = { bundle: true, format: 'esm', target: 'es2022', logLevel: 'warning' };
/** Bytes of dist/lifeline.js, compressed. */
const LIMIT = 8192;
/** What modules call each other by; nothing of it is seen from outside, or kept. */
const INTERNAL =
  /^(adopt|behind|buffered|commit|begin|deadline|dial|doubt|drop|emit|ended|forget|forgo|handled|isLifeline|isOpen|isReady|isWriting|leaving|lost|opened|rekey|restore|settled|stored|wanted)$/;

if (process.argv[2] === 'test') {
  rmSync('build', { recursive: true, force: true });
  const entryPoints = readdirSync('test')
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => `test/${name}`);
  await build({ ...common, entryPoints, outdir: 'build/test', platform: 'node', packages: 'external', outExtension: { '.js': '.mjs' } });
} else {
  rmSync('dist', { recursive: true, force: true });
  mkdirSync('dist');
  const bundle = await build({ ...common, entryPoints: ['src/index.ts'], minifySyntax: true, mangleProps: INTERNAL, write: false });
  const { code } = await minify(bundle.outputFiles[0].text, {
    module: true,
    ecma: 2022,
    // What is used once stays where it is: the same names in more places compress better.
    compress: { passes: 4, unsafe_arrows: true, pure_getters: true, keep_fargs: false, reduce_funcs: false, sequences: false },
  });
  writeFileSync('dist/lifeline.js', code);
  if (process.argv[2] === 'embed') writeFileSync('../crates/engine/client/lifeline.js', code);
  execFileSync('node', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json'], { stdio: 'inherit' });
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`dist/lifeline.js: ${code.length} bytes minified, ${size} compressed, ${LIMIT} allowed`);
  if (size >= LIMIT) process.exit(1);
}
