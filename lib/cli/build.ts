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
/** A bundle beside the one of the command: commands that load what they need and nothing else, as one file. */
interface FastBundle {
  readonly entries: readonly string[];
  /**
   * Whether Node's own `Duplex` takes the place of readable-stream's: these commands use a `QemuFile` by its typed puts
   * and gets, and to iterate over it, but not as a stream otherwise. Node has loaded its own anyway; the other takes 6 ms.
   */
  readonly hasNodeStreams: boolean;
}
const FAST_BUNDLES: readonly FastBundle[] = [
  { entries: ['inspect.ts', 'verify.ts'].map(commandPath), hasNodeStreams: true },
  { entries: [commandPath('vm/restore-lazily.ts')], hasNodeStreams: true },
  { entries: [commandPath('vm/save.ts')], hasNodeStreams: false },
];
const FAST_COMMANDS: readonly string[] = FAST_BUNDLES.flatMap(({ entries }) => entries);
/** The core of the other commands: this command needs the modules that most of them need. */
const CORE: readonly string[] = [commandPath('extract.ts')];
/** A second core: the commands that control a QEMU, which need most of what the others need besides the core. */
const VM_CORE: readonly string[] = [commandPath('vm/restore.ts')];
/** Commands that have little in common with those. */
const READERS: readonly string[] = ['extract.ts', 'diff/diff.ts'].map(commandPath);
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
  const bundles: readonly (FastBundle & { coresOf: (metafile: Metafile) => Cores })[] = [
    { entries: [join(SOURCE, 'main.ts')], hasNodeStreams: false, coresOf: coresOfMain },
    ...FAST_BUNDLES.map((bundle) => ({
      ...bundle,
      coresOf: (metafile: Metafile) => coresOfFast(metafile, bundle.entries),
    })),
  ];
  for (const { entries, hasNodeStreams, coresOf } of bundles) {
    const options = optionsOf(directory, entries, hasNodeStreams);
    const plugins = [prepareModules(directory, entries, new Map())];
    const { metafile: first } = await build({ ...options, plugins, write: false });
    const { metafile } = await build({
      ...options,
      plugins: [prepareModules(directory, entries, coresOf(first))],
    });
    for (const path of Object.keys(metafile.inputs)) inputs.add(path);
  }
  writeFileSync(join(directory, 'LICENSES.txt'), licencesOf(inputs));
  const page = await bundlePage();
  mkdirSync(join(directory, 'report'));
  writeFileSync(join(directory, 'report', PAGE_FILES.script), page.script);
  writeFileSync(join(directory, 'report', PAGE_FILES.style), page.style);
}

/** Return the path of a command's module. */
function commandPath(name: string): string {
  return join(SOURCE, 'commands', name);
}

function optionsOf(
  directory: string,
  entries: readonly string[],
  hasNodeStreams: boolean,
): BuildOptions & { metafile: true } {
  return {
    entryPoints: entries.map((path) => ({ in: path, out: basename(path, '.ts') })),
    alias: hasNodeStreams ? { 'readable-stream': 'node:stream' } : {},
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

/** Let all parts of a fast bundle share its commands as one chunk. */
function coresOfFast(metafile: Metafile, entries: readonly string[]): Cores {
  return new Map(partsOf(metafile).map((path) => [path, entries]));
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
 * @param entries - The modules that the bundle begins with.
 * @param shared - What each part imports.
 */
function prepareModules(directory: string, entries: readonly string[], shared: Cores): Plugin {
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
        const isApart = FAST_COMMANDS.includes(module) && !entries.includes(module);
        if (kind !== 'dynamic-import' || !isApart) return;
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
