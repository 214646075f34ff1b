// The command as the package has it: a bundle, run where only the package's dependencies are installed.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
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
    execFileSync(process.execPath, [`${built}/main.js`, ...args], { encoding: 'utf8' });

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
});
