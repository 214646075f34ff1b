// The package as a user gets it: packed, installed into an empty project, with README's examples run unchanged.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import * as faulty from '../adapters/faulty/index.ts';
import * as adapters from '../adapters/index.ts';
import * as extract from '../lib/extract/index.ts';
import * as library from '../lib/index.ts';
import * as migration from '../lib/migration/index.ts';
import * as snapshot from '../lib/snapshot/index.ts';
import * as vm from '../lib/vm/index.ts';
import { makeTempDir, type TempDir } from './helpers/cleanup.ts';
import {
  DOCUMENTS,
  type Example,
  ROOT,
  readDocComments,
  readExamples,
} from './helpers/documents.ts';
import { completeExample, runExamples, typeCheck } from './helpers/examples.ts';

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string;
};

const ENTRIES = {
  'qemu-file': library,
  'qemu-file/adapters': adapters,
  'qemu-file/adapters/faulty': faulty,
  'qemu-file/extract': extract,
  'qemu-file/migration': migration,
  'qemu-file/snapshot': snapshot,
  'qemu-file/vm': vm,
};

/** The examples as modules: those of the documents as they are, those of doc comments with their imports. */
const EXAMPLES: readonly Example[] = [
  ...readExamples(),
  ...readDocComments().map(({ place, code }) => ({ place, code: completeExample(code, ENTRIES) })),
];

/** A relative link of a document, without its anchor. */
const LINK = /\]\((?![a-z]+:)([^)#\s]+)/g;

/** What an example says if it is not run, because it needs what the test does not have. */
const NOT_RUN: readonly RegExp[] = [
  /QmpClient|qemu-system/, // a QEMU
  /'xz'|'ssh'/, // another program
  /host: '', port: 0|host: '0.0.0.0'/, // a peer that knows the port
  /channels: 9/, // a source with several channels
  /function webSocketOps/, // a socket: run below
];

/** What examples print; the others print nothing, or what only has to be valid. */
const PRINTED: readonly [words: string, printed: string][] = [
  ['new QemuFile(here)', '5145564d\nram\n4096\n'],
  ["store.writer('base')", 'microvm 16842752\n'],
  ['faultyOps(memoryOps()', 'ENOSPC 1048576\n'],
];

/** Return the example that contains `words`. */
function example(words: string): Example {
  const found = EXAMPLES.filter(({ code }) => code.includes(words));
  assert.equal(found.length, 1, `there is one example with ${words}`);
  return found[0] as Example;
}

describe('the packed package', () => {
  let project: TempDir;
  const run = (command: string, ...args: string[]): string =>
    execFileSync(command, args, {
      cwd: project.path,
      encoding: 'utf8',
      stdio: 'pipe',
      timeout: 300_000,
    });

  before(() => {
    project = makeTempDir();
    const packed = execFileSync('npm', ['pack', '--silent', '--pack-destination', project.path], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    writeFileSync(project.join('package.json'), '{ "name": "empty", "private": true }');
    const flags = ['--no-audit', '--no-fund', '--prefer-offline', '--silent'];
    run('npm', 'install', ...flags, project.join(packed.trim().split('\n').at(-1) as string));
  });
  after(() => project.remove());

  test('has the types that the examples use', () => {
    assert.ok(EXAMPLES.length > 40, `${EXAMPLES.length} examples`);
    assert.deepEqual(typeCheck(EXAMPLES), []);
  });

  test('runs the examples that need no QEMU', async () => {
    const stream = gunzipSync(readFileSync(join(ROOT, 'test/fixtures/microvm.mig.gz')));
    const runnable = EXAMPLES.filter(({ code }) => !NOT_RUN.some((words) => words.test(code)));
    // The subscriber to a channel comes last, because it would print for all that follow.
    const subscribers = runnable.filter(({ code }) => code.includes('subscribe('));
    const others = runnable.filter((each) => !subscribers.includes(each));
    const folder = project.path;
    const printed = await runExamples([...others, ...subscribers], { folder, stream });
    for (const [words, expected] of PRINTED) {
      assert.equal(printed.get(example(words).place), expected);
    }
  });

  test('has each document that another one links to', () => {
    const root = project.join('node_modules/qemu-file');
    const names = readdirSync(root, { recursive: true, encoding: 'utf8' });
    const documents = names.filter((name) => name.endsWith('.md'));
    assert.ok(documents.length > DOCUMENTS.length);
    for (const path of documents) {
      for (const [, target] of readFileSync(join(root, path), 'utf8').matchAll(LINK)) {
        const linked = join(root, dirname(path), target as string);
        assert.ok(existsSync(linked), `${path} links to ${target}`);
      }
    }
  });

  test('takes the example backend of adapters/README.md', () => {
    writeFileSync(
      project.join('backend.mjs'),
      `import { EventEmitter } from 'node:events';
import { QemuFile } from 'qemu-file';
${example('function webSocketOps').code}
const socket = Object.assign(new EventEmitter(), {
  readyState: 1,
  send(batch, done) {
    socket.emit('message', Buffer.from(batch));
    done();
  },
  close() {
    console.log('closed');
  },
});
const file = new QemuFile(webSocketOps(socket));
file.putCountedString('echo');
await file.flush();
console.log(await file.readCountedString());
await file.close();
`,
    );
    assert.equal(run('node', 'backend.mjs'), 'echo\nclosed\n');
  });

  test('can be required where Node can require modules', () => {
    const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
    assert.ok(major > 20 || minor >= 19, 'the oldest Node we support can');
    const code = "console.log(typeof require('qemu-file').QemuFile)";
    assert.equal(run('node', '--no-warnings', '-e', code), 'function\n');
  });

  test('has all its entries', () => {
    const names = ['saveVm', 'faultyOps', 'MigrationReader', 'SparseOutput', 'openTo'];
    const paths = ['vm', 'adapters/faulty', 'migration', 'extract', 'adapters'];
    for (const [index, path] of paths.entries()) {
      const code = `console.log(typeof (await import('qemu-file/${path}')).${names[index]})`;
      assert.equal(run('node', '--input-type=module', '-e', code), 'function\n');
    }
  });

  test('has the command qemu-file', () => {
    assert.equal(run(project.join('node_modules/.bin/qemu-file'), '--version'), `${version}\n`);
  });

  test('brings no package with an install script', () => {
    const lock = JSON.parse(
      readFileSync(project.join('node_modules/.package-lock.json'), 'utf8'),
    ) as { packages: Record<string, { hasInstallScript?: boolean }> };
    const scripted = Object.entries(lock.packages).filter(([, entry]) => entry.hasInstallScript);
    assert.deepEqual(scripted, []);
  });
});
