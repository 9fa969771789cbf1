// Builds dist/ (the module, its documents, both in one, and types); with `embed` also the copy that is part of the extension; or, with `test`,
// build/test/ (the tests, for Node's runner).
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { minify } from 'terser';

const common = { bundle: true, format: 'esm', target: 'es2022', logLevel: 'warning' };
/** Bytes of dist/lifeline.js, compressed. */
const LIMIT = 8192;
/** Of dist/document.js. */
const DOCUMENT_LIMIT = 3584;
/** What modules call each other by; nothing of it is seen from outside, or kept. */
const INTERNAL =
  /^(adopt|behind|buffered|commit|begin|deadline|dial|doubt|drop|emit|end|ended|forget|forgo|handled|hook|isLifeline|isOpen|isReady|isWriting|items|leaving|lost|opened|rekey|remove|restore|say|settled|store|stored|tap|wanted)$/;

if (process.argv[2] === 'test') {
  rmSync('build', { recursive: true, force: true });
  const entryPoints = readdirSync('test')
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => `test/${name}`);
  await build({ ...common, entryPoints, outdir: 'build/test', platform: 'node', packages: 'external', outExtension: { '.js': '.mjs' } });
} else {
  rmSync('dist', { recursive: true, force: true });
  mkdirSync('dist');
  /** One name for one thing in all files. */
  let mangleCache = {};
  const bundle = async (from, to, limit, plugins = []) => {
    const built = await build({ ...common, entryPoints: [from], minifySyntax: true, mangleProps: INTERNAL, mangleCache, plugins, write: false });
    mangleCache = built.mangleCache;
    const { code } = await minify(built.outputFiles[0].text, {
      module: true,
      ecma: 2022,
      // What is used once stays where it is: the same names in more places compress better.
      compress: { passes: 4, unsafe_arrows: true, pure_getters: true, keep_fargs: false, reduce_funcs: false, sequences: false },
    });
    writeFileSync(`dist/${to}`, code);
    const size = gzipSync(code, { level: 9 }).length;
    console.log(`dist/${to}: ${code.length} bytes minified, ${size} compressed, ${limit} allowed`);
    if (size >= limit) process.exitCode = 1;
  };
  const external = {
    name: 'the module itself',
    setup({ onResolve }) {
      onResolve({ filter: /^\.\/lifeline\.js$/ }, () => ({ path: './lifeline.js', external: true }));
    },
  };
  await bundle('src/index.ts', 'lifeline.js', LIMIT);
  await bundle('src/document.ts', 'document.js', DOCUMENT_LIMIT, [external]);
  await bundle('src/full.ts', 'lifeline-full.js', LIMIT + DOCUMENT_LIMIT);
  if (process.argv[2] === 'embed') copyFileSync('dist/lifeline-full.js', '../crates/engine/client/lifeline.js');
  execFileSync('node', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json'], { stdio: 'inherit' });
}
