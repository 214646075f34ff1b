/*
 * The last step of `npm run build`: bundle the command and the page of its report into dist/lib/cli.
 *
 * The command is bundled because loading its modules one by one takes longer than reading a small stream
 * (bench/start-up.ts). The packages that only the command uses are part of the bundle and are not dependencies.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { type BuildOptions, build, type Metafile, type Plugin } from 'esbuild';
import { bundlePage } from './report/bundle-page.ts';
import { PAGE_FILES } from './report/page-code.ts';

const ROOT: string = fileURLToPath(new URL('../../', import.meta.url));
const SOURCE = join(ROOT, 'lib/cli');
/** Commands that are bundles of their own, so that each loads what it needs and nothing else, as one file. */
const FAST_COMMANDS: readonly string[] = ['save.ts', 'restore-lazily.ts'].map((name) =>
  join(SOURCE, 'commands/vm', name),
);
/** The core of the other commands: this command needs the modules that most of them need. */
const CORE: readonly string[] = [join(SOURCE, 'commands/inspect.ts')];
/** A second core: the commands that control a QEMU, which need most of what the others need besides the core. */
const VM_CORE: readonly string[] = [join(SOURCE, 'commands/vm/restore.ts')];
/** Commands that have little in common with those. */
const READERS: readonly string[] = ['inspect.ts', 'extract.ts', 'diff/diff.ts'].map((name) =>
  join(SOURCE, 'commands', name),
);
/**
 * Packages that a bundle has other modules for. A lazy restore uses a `QemuFile` by its typed puts and gets only, never as
 * a stream: Node's own `Duplex`, which it loads for its sockets anyway, serves as well and spares the guest 6 ms.
 */
const ALIASES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  [join(SOURCE, 'commands/vm/restore-lazily.ts')]: { 'readable-stream': 'node:stream' },
};
/** Modules that packages import but do not use here: commander's commands in other files, and a polyfill. */
const UNUSED_MODULES = /^(?:(?:node:)?child_process|abort-controller)$/;

/**
 * Bundle the command into a directory: `main.js`, a file for each fast command, a chunk for each part that is loaded
 * when it is needed, the page of the report, and the licences of the packages inside.
 *
 * @param directory - Where `lib/cli` is in the built package: `dist/lib/cli`.
 */
export async function buildCommand(directory: string): Promise<void> {
  rmSync(directory, { recursive: true, force: true });
  const inputs = new Set<string>();
  const bundles: readonly (readonly [entry: string, cores: (metafile: Metafile) => Cores])[] = [
    [join(SOURCE, 'main.ts'), coresOfMain],
    ...FAST_COMMANDS.map(
      (entry) => [entry, (metafile: Metafile) => coresOf(metafile, entry)] as const,
    ),
  ];
  for (const [entry, cores] of bundles) {
    const options = { ...optionsOf(directory, entry), alias: ALIASES[entry] ?? {} };
    const plugins = [prepareModules(directory, entry, new Map())];
    const { metafile: first } = await build({ ...options, plugins, write: false });
    const { metafile } = await build({
      ...options,
      plugins: [prepareModules(directory, entry, cores(first))],
    });
    for (const path of Object.keys(metafile.inputs)) inputs.add(path);
  }
  writeFileSync(join(directory, 'LICENSES.txt'), licencesOf(inputs));
  const page = await bundlePage();
  mkdirSync(join(directory, 'report'));
  writeFileSync(join(directory, 'report', PAGE_FILES.script), page.script);
  writeFileSync(join(directory, 'report', PAGE_FILES.style), page.style);
}

function optionsOf(directory: string, entry: string): BuildOptions & { metafile: true } {
  return {
    entryPoints: [entry],
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

/** For each module that is loaded when it is needed: those that it must import. */
type Cores = ReadonlyMap<string, readonly string[]>;

/** Let all parts of a fast command share the command as one chunk. */
function coresOf(metafile: Metafile, entry: string): Cores {
  return new Map(partsOf(metafile).map((path) => [path, [entry]]));
}

/**
 * Return the modules that are loaded when they are needed, each with those that it must import: the core, and the
 * second core if both have modules in common.
 */
function coresOfMain(metafile: Metafile): Cores {
  const reading = importedBy(metafile, [...CORE, ...READERS]);
  const vmCore = importedBy(metafile, VM_CORE);
  return new Map(
    partsOf(metafile).map((path) => {
      const imported = [...importedBy(metafile, [path])].filter((other) => !reading.has(other));
      const isReading = reading.has(relative(process.cwd(), path));
      const needsBoth = !isReading && imported.some((other) => vmCore.has(other));
      return [path, needsBoth ? [...CORE, ...VM_CORE] : CORE];
    }),
  );
}

/** Return the modules of the package that are loaded when they are needed. */
function partsOf({ outputs }: Metafile): string[] {
  return Object.values(outputs)
    .flatMap(({ entryPoint }) => entryPoint ?? [])
    .map((path) => resolve(path))
    .filter((path) => path.startsWith(join(ROOT, 'lib')) || path.startsWith(join(ROOT, 'adapters')))
    .filter((path) => ![join(SOURCE, 'main.ts'), join(SOURCE, 'program.ts')].includes(path));
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
 * Prepare the modules for a bundle.
 *
 * A module finds the files beside it: its URL is the one that it has outside the bundle.
 *
 * esbuild makes a chunk for each set of parts that share modules, dozens of them, and loading a file takes Node about
 * a millisecond. Parts that import a whole core share it as one chunk.
 *
 * @param entry - The module that the bundle begins with.
 * @param shared - What each part imports.
 */
function prepareModules(directory: string, entry: string, shared: Cores): Plugin {
  const dist = resolve(directory, '../..');
  return {
    name: 'prepare-modules',
    setup(bundle) {
      bundle.onResolve({ filter: UNUSED_MODULES }, ({ importer, path }) =>
        importer.includes('node_modules') ? { path, namespace: 'unused' } : undefined,
      );
      bundle.onLoad({ filter: /^/, namespace: 'unused' }, () => ({ contents: '' }));
      bundle.onResolve({ filter: /\.ts$/ }, ({ kind, path, resolveDir }) => {
        const module = resolve(resolveDir, path);
        if (kind !== 'dynamic-import' || module === entry || !FAST_COMMANDS.includes(module))
          return;
        return { path: `./${basename(module, '.ts')}.js`, external: true };
      });
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

/** Return the licences of all packages in the bundles. */
function licencesOf(modules: Iterable<string>): string {
  const packages = new Set<string>();
  for (const path of modules) {
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
