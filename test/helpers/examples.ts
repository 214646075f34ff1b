// The examples of documents and doc comments as modules: completed, type-checked, and run beside peers.
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, watch, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import ts from 'typescript';
import { type Example, ROOT } from './documents.ts';

const TIMEOUT_MS = 60_000;

/** Where an example of a doc comment imports what it uses and does not declare. */
const NODE_MODULES: Readonly<Record<string, string>> = {
  createReadStream: 'node:fs',
  openSync: 'node:fs',
  PassThrough: 'node:stream',
  pipeline: 'node:stream/promises',
  spawn: 'node:child_process',
};

/** What an example of a doc comment uses without declaring it, because it belongs to the reader's program. */
const CONTEXT: Readonly<Record<string, string>> = {
  qmp: "await QmpClient.connect('/run/vm.qmp')",
  store: "await openStore('store:/srv/vm')",
  a: "await openSavedGuest(await unwrap(await openFrom('file:vm.mig')))",
  b: "await openSavedGuest(await unwrap(await openFrom('file:vm.mig')))",
  file: 'new QemuFile(memoryOps())',
  writer: 'new MigrationWriter(new QemuFile(memoryOps()))',
  source: "new MemoryPageSource([{ name: 'pc.ram', memory: new Uint8Array(1 << 20) }])",
  stopTheGuest: '() => {}',
  socket: "createReadStream('/dev/null')",
  one: 'new PassThrough()',
  another: 'new PassThrough()',
};

/** Return the code with imports of the package, of Node and of what the reader's program has, where it has none. */
export function completeExample(code: string, entries: Readonly<Record<string, object>>): string {
  let body = code;
  for (const [name, value] of Object.entries(CONTEXT)) {
    if (isFree(name, body)) body = `const ${name} = ${value};\n${body}`;
  }
  const imports: string[] = [];
  for (const [path, entry] of Object.entries(entries)) {
    for (const name of Object.keys(entry)) {
      if (!isFree(name, body) || imports.some((line) => line.includes(` ${name} `))) continue;
      imports.push(`import { ${name} } from '${path}';`);
    }
  }
  for (const [name, path] of Object.entries(NODE_MODULES)) {
    if (isFree(name, body)) imports.push(`import { ${name} } from '${path}';`);
  }
  return [...imports, body].join('\n');
}

/** Whether code uses a name that it neither declares nor imports. */
function isFree(name: string, code: string): boolean {
  const withoutComments = code.replace(/\/\/ .*$/gm, '').replace(/'[^'\n]*'/g, "''");
  if (!new RegExp(`(?<![.\\w])${name}\\b(?!:)`).test(withoutComments)) return false;
  const declared = `\\b(?:const|let|using|function|import) (?:[{[][^}\\]]*)?\\b${name}\\b`;
  const parameter = `\\((?:[^()]*, )?${name}(?:, [^()]*)?\\) (?:=>|\\{)`;
  return !new RegExp(`${declared}|${parameter}`).test(withoutComments);
}

/** Return the faults that TypeScript finds in examples, which it reads as modules beside the built package. */
export function typeCheck(examples: readonly Example[]): string[] {
  const options: ts.CompilerOptions = {
    allowJs: true,
    checkJs: true,
    noEmit: true,
    strict: true,
    noImplicitAny: false,
    skipLibCheck: true,
    types: ['node'],
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const codes = new Map(
    examples.map(({ code }, index) => [join(ROOT, `example-${index}.mjs`), code] as const),
  );
  const disk = ts.createCompilerHost(options);
  const host: ts.CompilerHost = {
    ...disk,
    readFile: (path) => codes.get(path) ?? disk.readFile(path),
    fileExists: (path) => codes.has(path) || disk.fileExists(path),
    getSourceFile: (path, language, ...rest) => {
      const code = codes.get(path);
      if (code === undefined) return disk.getSourceFile(path, language, ...rest);
      return ts.createSourceFile(path, code, language);
    },
  };
  const program = ts.createProgram([...codes.keys()], options, host);
  return [...codes.keys()].flatMap((path, index) => {
    const source = program.getSourceFile(path);
    const found = [
      ...program.getSyntacticDiagnostics(source),
      ...program.getSemanticDiagnostics(source),
    ];
    return found.map(
      ({ messageText }) =>
        `${examples[index]?.place}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`,
    );
  });
}

/** A recorded stream, and the output of each example by its place. */
interface RunOptions {
  /** A folder from which the package can be imported; the examples run in folders below it. */
  readonly folder: string;
  /** Contents of `vm.mig`, and of what a source sends. */
  readonly stream: Uint8Array;
}

/**
 * Run examples, each in a folder of its own with the files that it reads: `/run`, `/srv` and `/var/lib` are
 * this folder. A source connects to each socket that an example listens on; a destination reads all that is
 * sent to it.
 *
 * @returns what each example printed.
 * @throws {Error} with the output of the examples, if one of them fails.
 */
export async function runExamples(
  examples: readonly Example[],
  { folder, stream }: RunOptions,
): Promise<Map<string, string>> {
  await using peers = new Peers(stream);
  const port = await peers.listenTcp();
  const paths: string[] = [];
  for (const [index, { code }] of examples.entries()) {
    const home = join(folder, `example-${index}`);
    mkdirSync(home);
    writeFileSync(join(home, 'vm.mig'), stream);
    if (code.includes('unix:/run/in.sock')) await peers.listenUnix(join(home, 'in.sock'));
    peers.connectIn(home);
    const path = join(home, 'example.mjs');
    const placed = code
      .replaceAll(/(?<=['":])\/(?:run|var\/lib|srv)\//g, `${home}/`)
      .replaceAll("'/dev/vdb'", "'vm.mig'")
      .replaceAll("host: 'localhost', port: 4444", `host: 'localhost', port: ${port}`)
      .replaceAll('tcp:otherhost:4444', `tcp:127.0.0.1:${port}`);
    writeFileSync(path, ts.transpile(placed, { target: ts.ScriptTarget.ES2022 }));
    paths.push(path);
  }
  writeFileSync(
    join(folder, 'run.mjs'),
    `import { dirname } from 'node:path';
for (const path of process.argv.slice(2)) {
  process.chdir(dirname(path));
  console.log('#', path);
  await import(path);
}
process.exit(0);
`,
  );
  const child = promisify(execFile)('node', [join(folder, 'run.mjs'), ...paths], {
    timeout: TIMEOUT_MS,
  });
  child.child.stdin?.end(stream.subarray(0, 4096));
  const { stdout } = await child;
  const printed = stdout.split(/^# .*\n/m).slice(1);
  return new Map(examples.map(({ place }, index) => [place, printed[index] ?? '']));
}

/** The other ends of what examples open. */
class Peers implements AsyncDisposable {
  readonly #stream: Uint8Array;
  readonly #servers: Server[] = [];
  readonly #undo: (() => void)[] = [];

  constructor(stream: Uint8Array) {
    this.#stream = stream;
  }

  /** Accept connections on a port of the system's choice, and return it. */
  async listenTcp(): Promise<number> {
    const server = await this.#listen({ host: '127.0.0.1', port: 0 });
    return (server.address() as { port: number }).port;
  }

  async listenUnix(path: string): Promise<void> {
    await this.#listen({ path });
  }

  /** Connect to each UNIX socket that appears in a folder, and send the stream. */
  connectIn(folder: string): void {
    const watcher = watch(folder, (_event, name) => {
      const path = join(folder, String(name));
      if (!/^(?:vm|from)\.sock$/.test(String(name)) || !existsSync(path)) return;
      this.#drain(connect({ path })).end(this.#stream);
    });
    this.#undo.push(() => watcher.close());
  }

  async #listen(address: { host: string; port: number } | { path: string }): Promise<Server> {
    const server = createServer((socket) => this.#drain(socket));
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(address, resolve));
    return server;
  }

  #drain(socket: Socket): Socket {
    this.#undo.push(() => socket.destroy());
    return socket.on('error', () => {}).resume();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const undo of this.#undo) undo();
    await Promise.all(
      this.#servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))),
    );
  }
}
