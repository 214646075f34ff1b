// The package as a user gets it: packed, installed into an empty project, with README's examples run unchanged.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makeTempDir, type TempDir } from './helpers/cleanup.ts';
import { ROOT, readExamples } from './helpers/documents.ts';

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string;
};

/** Return the JavaScript example that contains `words`. */
function example(words: string): string {
  const found = readExamples().filter((code) => code.includes(words));
  assert.equal(found.length, 1, `the documents have one JavaScript example with ${words}`);
  return found[0] as string;
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

  test("runs README's example of typed puts and gets", () => {
    writeFileSync(project.join('example.mjs'), example('new QemuFile(here)'));
    assert.equal(run('node', 'example.mjs'), '5145564d\nram\n4096\n');
  });

  test('takes the example backend of adapters/README.md', () => {
    writeFileSync(
      project.join('backend.mjs'),
      `import { EventEmitter } from 'node:events';
import { QemuFile } from 'qemu-file';
${example('function webSocketOps')}
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
