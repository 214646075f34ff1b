/*
 * The last step of `npm run build`: bundle the command and the page of its report into dist/lib/cli.
 *
 * The command is bundled because loading its modules one by one takes longer than reading a small stream
 * (bench/start-up.ts). The packages that only the command uses are part of the bundle and are not dependencies.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { type BuildOptions, build, type Metafile, type Plugin } from 'esbuild';
import { bundlePage } from './report/bundle-page.ts';
import { PAGE_FILES } from './report/page-code.ts';

const ROOT: string = fileURLToPath(new URL('../../', import.meta.url));
const SOURCE = join(ROOT, 'lib/cli');
/** The core: what most commands need is what this one needs. */
const CORE: readonly string[] = [join(SOURCE, 'commands/verify.ts')];
/** A second core: the commands that control a QEMU, which need most of what the others need besides the core. */
const VM_CORE: readonly string[] = ['restore.ts', 'restore-lazily.ts', 'save.ts'].map((name) =>
  join(SOURCE, 'commands/vm', name),
);
/** Commands that have little in common with those. */
const READERS: readonly string[] = ['inspect.ts', 'extract.ts', 'diff/diff.ts'].map((name) =>
  join(SOURCE, 'commands', name),
);
/** Modules that packages import but do not use here: commander's commands in other files, and a polyfill. */
const UNUSED_MODULES = /^(?:(?:node:)?child_process|abort-controller)$/;

/**
 * Bundle the command into a directory: `main.js`, a chunk for each part that is loaded when it is needed, the
 * page of the report, and the licences of the packages inside.
 *
 * @param directory - Where `lib/cli` is in the built package: `dist/lib/cli`.
 */
export async function buildCommand(directory: string): Promise<void> {
  rmSync(directory, { recursive: true, force: true });
  const options = optionsOf(directory);
  const first = await build({
    ...options,
    plugins: [prepareModules(directory, new Map())],
    write: false,
  });
  const plugins = [prepareModules(directory, sharedOf(first.metafile))];
  const { metafile } = await build({ ...options, plugins });
  writeFileSync(join(directory, 'LICENSES.txt'), licencesOf(metafile));
  const page = await bundlePage();
  mkdirSync(join(directory, 'report'));
  writeFileSync(join(directory, 'report', PAGE_FILES.script), page.script);
  writeFileSync(join(directory, 'report', PAGE_FILES.style), page.style);
}

function optionsOf(directory: string): BuildOptions & { metafile: true } {
  return {
    entryPoints: [join(SOURCE, 'main.ts')],
    outdir: directory,
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    // Only a run from the sources bundles the page; the SDK is large, and optional.
    external: ['./bundle-page.ts', '@aws-sdk/client-s3'],
    // Packages in CommonJS require built-in modules.
    banner: {
      js: "import { createRequire as createRequire_ } from 'node:module'; const require = createRequire_(import.meta.url);",
    },
    // Less to parse; names stay, for stack traces.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
  };
}

/**
 * Return the modules that are loaded when they are needed, each with those that it must import: the core, and the
 * second core if both have modules in common.
 */
function sharedOf(metafile: Metafile): Map<string, readonly string[]> {
  const reading = importedBy(metafile, [...CORE, ...READERS]);
  const vmCore = importedBy(metafile, VM_CORE);
  const parts = Object.values(metafile.outputs)
    .flatMap(({ entryPoint }) => entryPoint ?? [])
    .map((path) => resolve(path))
    .filter((path) => path.startsWith(join(ROOT, 'lib')) || path.startsWith(join(ROOT, 'adapters')))
    .filter((path) => ![join(SOURCE, 'main.ts'), join(SOURCE, 'program.ts')].includes(path));
  return new Map(
    parts.map((path) => {
      const imported = [...importedBy(metafile, [path])].filter((other) => !reading.has(other));
      const isReading = reading.has(relative(process.cwd(), path));
      const needsBoth = !isReading && imported.some((other) => vmCore.has(other));
      return [path, needsBoth ? [...CORE, ...VM_CORE] : CORE];
    }),
  );
}

/** Return the modules of the package that some modules import, with themselves, except those that are loaded later. */
function importedBy({ inputs }: Metafile, modules: readonly string[]): Set<string> {
  const found = new Set(modules.map((path) => relative(process.cwd(), path)));
  for (const path of found) {
    for (const { path: other, kind } of inputs[path]?.imports ?? []) {
      if (kind === 'import-statement') found.add(other);
    }
  }
  return found;
}

/**
 * Prepare the modules for the bundle.
 *
 * A module finds the files beside it: its URL is the one that it has outside the bundle.
 *
 * esbuild makes a chunk for each set of parts that share modules, dozens of them, and loading a file takes Node about
 * a millisecond. Parts that import a whole core share it as one chunk.
 *
 * @param shared - What each part imports.
 */
function prepareModules(directory: string, shared: ReadonlyMap<string, readonly string[]>): Plugin {
  const dist = resolve(directory, '../..');
  return {
    name: 'prepare-modules',
    setup(bundle) {
      bundle.onResolve({ filter: UNUSED_MODULES }, ({ importer, path }) =>
        importer.includes('node_modules') ? { path, namespace: 'unused' } : undefined,
      );
      bundle.onLoad({ filter: /^/, namespace: 'unused' }, () => ({ contents: '' }));
      bundle.onLoad({ filter: /\.ts$/ }, ({ path }) => {
        const source = readFileSync(path, 'utf8');
        const module = join(dist, relative(ROOT, path)).replace(/\.ts$/, '.js');
        const url = `new URL(${JSON.stringify(relative(directory, module))}, import.meta.url).href`;
        const imports = (shared.get(path) ?? [])
          .filter((other) => other !== path)
          .map((other, index) => `\nexport * as shared${index} from ${JSON.stringify(other)};`);
        return {
          contents: source.replaceAll('import.meta.url', url) + imports.join(''),
          loader: 'ts',
        };
      });
    },
  };
}

/** Return the licences of all packages in a bundle. */
function licencesOf({ inputs }: Metafile): string {
  const packages = new Set<string>();
  for (const path of Object.keys(inputs)) {
    const directory = /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0];
    if (directory !== undefined) packages.add(resolve(directory));
  }
  return [...packages]
    .sort()
    .map((directory) => {
      const file = readdirSync(directory).find((entry) => /^licen[cs]e/i.test(entry));
      if (file === undefined) throw new Error(`${directory} has no licence file`);
      const { name, version } = JSON.parse(
        readFileSync(join(directory, 'package.json'), 'utf8'),
      ) as { name: string; version: string };
      return `${name} ${version}\n\n${readFileSync(join(directory, file), 'utf8').trim()}\n`;
    })
    .join(`\n${'-'.repeat(80)}\n\n`);
}

if (resolve(argv[1] ?? '') === fileURLToPath(import.meta.url)) {
  await buildCommand(join(ROOT, 'dist/lib/cli'));
}
