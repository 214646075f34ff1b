// The command as the package has it: a bundle, run where only the package's dependencies are installed.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import * as nodeModule from 'node:module';
import { after, before, describe, test } from 'node:test';
import { fixturePath } from '../fixtures/recording.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { buildPackage } from '../helpers/command/built-package.ts';

const MANIFEST = new URL('../../package.json', import.meta.url);
const { version } = JSON.parse(readFileSync(MANIFEST, 'utf8')) as { version: string };

describe('the built command', () => {
  const dir = makeTempDir();
  let built: string;

  before(async () => {
    built = await buildPackage(dir);
  });

  after(() => dir[Symbol.asyncDispose]());

  const run = (...args: string[]): string =>
    execFileSync(process.execPath, [`${built}/main.js`, ...args], {
      encoding: 'utf8',
      env: { ...process.env, XDG_CACHE_HOME: dir.join('cache') },
    });

  test('prints the version of the package', () => {
    assert.equal(run('--version'), `${version}\n`);
  });

  test('prints help', () => {
    assert.match(run('relay', '--help'), /--max-bandwidth/);
  });

  test('verifies a stream', () => {
    assert.match(run('verify', fixturePath('pc.mig.gz')), /pc-i440fx-7\.2, 50 sections/);
  });

  test('relays a file, and compresses one', () => {
    const copy = dir.join('copy.mig.gz');
    run('relay', fixturePath('pc.mig.gz'), copy, '--no-check', '--quiet');
    assert.deepEqual(readFileSync(copy), readFileSync(fixturePath('pc.mig.gz')));
    run('compact', copy, dir.join('small.mig.gz'), '--compress', 'gzip', '--quiet');
    assert.match(run('verify', dir.join('small.mig.gz')), /pc-i440fx-7\.2, 50 sections/);
  });

  test('decodes multifd channels', () => {
    const channels = [0, 1].flatMap((n) => [
      '--channel',
      fixturePath(`q10-multifd-zstd.ch${n}.mig.gz`),
    ]);
    assert.match(run('verify', fixturePath('q10-multifd-zstd.mig.gz'), ...channels), /sections/);
  });

  test('writes a report with the page that was built', () => {
    const path = dir.join('report.html');
    run('inspect', fixturePath('pc.mig.gz'), '--html', path, '--quiet');
    const script = readFileSync(`${built}/report/page.js`, 'utf8');
    assert.ok(readFileSync(path, 'utf8').includes(script));
  });

  test('has the licence of each package in it', () => {
    const licences = readFileSync(`${built}/LICENSES.txt`, 'utf8');
    const names = [...licences.matchAll(/^(\S+) \d+\.\d+\.\d+$/gm)].map(([, name]) => name);
    for (const name of ['commander', 'cli-progress', 'bytes', 'filesize', 'readable-stream']) {
      assert.ok(names.includes(name), name);
    }
    assert.ok(!names.includes('esbuild'));
  });

  describe('with a folder for compiled modules', () => {
    /** Run a command that succeeds and writes nothing to standard error. */
    const runIn = (parent: string, more: Record<string, string> = {}): void => {
      const { NODE_COMPILE_CACHE: _, NODE_DISABLE_COMPILE_CACHE: _2, ...env } = process.env;
      const args = [`${built}/main.js`, 'verify', fixturePath('pc.mig.gz')];
      const options = {
        encoding: 'utf8',
        env: { ...env, XDG_CACHE_HOME: parent, ...more },
      } as const;
      const { status, stdout, stderr } = spawnSync(process.execPath, args, options);
      assert.deepEqual([status, stderr], [0, '']);
      assert.match(stdout, /50 sections/);
    };
    const filesIn = (parent: string): string[] => {
      const paths = readdirSync(parent, { recursive: true, encoding: 'utf8' });
      return paths.map((path) => `${parent}/${path}`).filter((path) => statSync(path).isFile());
    };

    test('keeps them where no other user can write, and runs without what is damaged', () => {
      const parent = dir.join('private');
      mkdirSync(parent, { mode: 0o700 });
      runIn(parent);
      const files = filesIn(parent);
      assert.equal(files.length > 0, 'enableCompileCache' in nodeModule);
      if (files.length === 0) return;
      assert.equal(statSync(`${parent}/qemu-file/compiled`).mode & 0o777, 0o700);
      for (const path of files) writeFileSync(path, readFileSync(path).fill(0x55, 64));
      runIn(parent);
      for (const path of files) writeFileSync(path, '');
      runIn(parent);
    });

    test('keeps none where others could replace the folder', () => {
      const parent = dir.join('open');
      mkdirSync(parent);
      chmodSync(parent, 0o777);
      runIn(parent);
      assert.deepEqual(filesIn(parent), []);
    });

    test('keeps none if the folder cannot be made, there is no home, or Node must not', () => {
      writeFileSync(dir.join('file'), '');
      runIn(dir.join('file'));
      runIn('', { HOME: '' });
      runIn('', { HOME: dir.join('nonexistent') });
      assert.ok(!existsSync(dir.join('nonexistent')));
      const parent = dir.join('disabled');
      mkdirSync(parent);
      runIn(parent, { NODE_DISABLE_COMPILE_CACHE: '1' });
      assert.deepEqual(filesIn(parent), []);
    });
  });
});
