import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { type SparseFile, SparseOutput, temporarySparseFile } from '../../lib/extract/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { failsAt } from '../helpers/errors.ts';

const PAGE = 4096;

function read(store: SparseFile, at: number, length: number): Buffer {
  const target = Buffer.alloc(length, 0xee);
  store.read(at, target);
  return target;
}

test('an output appears under its name when published: complete, private and of its length', async () => {
  await using directory = makeTempDir();
  const output = await SparseOutput.create(directory.join('core'));
  output.store.write(PAGE, Buffer.alloc(PAGE, 7));
  assert.equal(read(output.store, PAGE, 1)[0], 7);
  output.store.flush();
  assert.equal(read(output.store, PAGE, 1)[0], 7);
  output.store.write(3 * PAGE, Buffer.from('end'));
  assert.equal(fs.existsSync(directory.join('core')), false);
  await output.publish(5 * PAGE);
  assert.deepEqual(fs.readdirSync(directory.path), ['core']);
  const bytes = fs.readFileSync(directory.join('core'));
  const wanted = Buffer.alloc(5 * PAGE).fill(7, PAGE, 2 * PAGE);
  wanted.write('end', 3 * PAGE);
  assert.deepEqual(bytes, wanted);
  assert.equal(fs.statSync(directory.join('core')).mode & 0o777, 0o600);
});

test('an output that was discarded, or whose writes failed, leaves no file', async (t) => {
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('core'), 'old');
  const discarded = await SparseOutput.create(directory.join('core'));
  discarded.store.write(0, Buffer.alloc(PAGE, 1));
  await discarded.discard();
  await discarded.discard();

  const failed = await SparseOutput.create(directory.join('core'));
  const full = t.mock.method(fs, 'writeSync', () => {
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  });
  assert.throws(() => failed.store.write(0, Buffer.alloc(2 ** 20)), failsAt('ENOSPC', 'write', 0));
  full.mock.restore();
  await assert.rejects(failed.publish(2 ** 20), failsAt('ENOSPC', 'write', 0));

  assert.deepEqual(fs.readdirSync(directory.path), ['core']);
  assert.equal(fs.readFileSync(directory.join('core'), 'utf8'), 'old');
});

test('an output replaces a file only if allowed, and the target of a link instead of the link', async () => {
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('core'), 'old');
  fs.symlinkSync('core', directory.join('link'));
  await assert.rejects(
    SparseOutput.create(directory.join('core'), { replace: false }),
    failsAt('EEXIST', 'open'),
  );
  await assert.rejects(SparseOutput.create(directory.path), failsAt('ENOTSUP', 'open'));
  await assert.rejects(SparseOutput.create(directory.join('a/b')), failsAt('ENOENT', 'open'));
  const output = await SparseOutput.create(directory.join('link'));
  output.store.write(0, Buffer.from('new'));
  await output.publish(3);
  assert.equal(fs.readFileSync(directory.join('core'), 'utf8'), 'new');
  assert.equal(fs.readlinkSync(directory.join('link')), 'core');
  assert.deepEqual(fs.readdirSync(directory.path).sort(), ['core', 'link']);
});

test('an output creates the file that a dangling link names, and the link stays', async () => {
  await using directory = makeTempDir();
  fs.symlinkSync('core', directory.join('link'));
  const output = await SparseOutput.create(directory.join('link'), { replace: false });
  output.store.write(0, Buffer.from('new'));
  await output.publish(3);
  assert.equal(fs.readlinkSync(directory.join('link')), 'core');
  assert.equal(fs.readFileSync(directory.join('core'), 'utf8'), 'new');
});

/** Return the paths in a directory that this process has open; deleted files included. */
function descriptorsIn(directory: string): string[] {
  const targets = fs.readdirSync('/proc/self/fd').map((fd) => {
    try {
      return fs.readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // Closed in the meantime.
      return '';
    }
  });
  return targets.filter((target) => target.startsWith(`${directory}/`));
}

test('closing leaves no descriptor open', async () => {
  await using directory = makeTempDir();
  temporarySparseFile(directory.path).close();
  const output = await SparseOutput.create(directory.join('core'));
  await output.publish(0);
  await (await SparseOutput.create(directory.join('core'))).discard();
  assert.deepEqual(descriptorsIn(directory.path), []);
});
