import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { makeDirectories } from '../../lib/util/make-directories.ts';
import { makeTempDir } from '../helpers/cleanup.ts';

test('makes what is missing, with the mode, and leaves what is there', async () => {
  await using dir = makeTempDir();
  fs.mkdirSync(dir.join('there'), { mode: 0o755 });
  await makeDirectories(dir.join('there/a/b'), 0o700);
  await makeDirectories(`${dir.join('there/a/b')}/`, 0o700);
  const modes = ['there', 'there/a', 'there/a/b'].map(
    (name) => fs.statSync(dir.join(name)).mode & 0o777,
  );
  assert.deepEqual(modes, [0o755, 0o700, 0o700]);
});

test('takes a symbolic link to a directory for one', async () => {
  await using dir = makeTempDir();
  fs.mkdirSync(dir.join('there'));
  fs.symlinkSync('there', dir.join('link'));
  await makeDirectories(dir.join('link/a'), 0o700);
  assert.deepEqual(fs.readdirSync(dir.join('there')), ['a']);
});

test('fails where a file is in the way, or a file system makes no directories', async () => {
  await using dir = makeTempDir();
  fs.writeFileSync(dir.join('file'), '');
  await assert.rejects(makeDirectories(dir.join('file'), 0o700), { code: 'EEXIST' });
  await assert.rejects(makeDirectories(dir.join('file/a'), 0o700), { code: 'ENOTDIR' });
  if (process.platform === 'linux') {
    await assert.rejects(makeDirectories('/proc/qemu-file/a', 0o700), { code: 'ENOENT' });
  }
});
