import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { findTarget } from '../../../adapters/file/target-path.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';

test('a path that leads to nothing is its own target, in its real directory', async () => {
  await using directory = makeTempDir();
  fs.mkdirSync(directory.join('real'));
  fs.symlinkSync('real', directory.join('dir'));
  const real = fs.realpathSync(directory.path);
  assert.deepEqual(await findTarget(directory.join('dir/new')), { path: `${real}/real/new` });
});

test('the target of a link to a file is that file', async () => {
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('file'), 'old');
  fs.symlinkSync('file', directory.join('link'));
  const target = await findTarget(directory.join('link'));
  assert.equal(target.path, `${fs.realpathSync(directory.path)}/file`);
  assert.equal(target.stats?.size, 3);
});

test('the target of a dangling link is the file that it names', async () => {
  await using directory = makeTempDir();
  fs.mkdirSync(directory.join('far'));
  fs.symlinkSync('far/second', directory.join('first'));
  fs.symlinkSync('new', directory.join('far/second'));
  const real = fs.realpathSync(directory.path);
  assert.deepEqual(await findTarget(directory.join('first')), { path: `${real}/far/new` });
});

test('a device keeps its path', async () => {
  const target = await findTarget('/dev/null');
  assert.equal(target.path, '/dev/null');
  assert.equal(target.stats?.isCharacterDevice(), true);
});

test('fails where a path cannot lead to a file', async () => {
  await using directory = makeTempDir();
  fs.symlinkSync('loop', directory.join('loop'));
  fs.symlinkSync('nowhere/file', directory.join('link'));
  await assert.rejects(findTarget(''), { code: 'ENOENT' });
  await assert.rejects(findTarget(directory.join('new/')), { code: 'EISDIR' });
  await assert.rejects(findTarget(directory.join('loop')), { code: 'ELOOP' });
  await assert.rejects(findTarget(directory.join('link')), { code: 'ENOENT' });
});

test('fails where 41 links lead to a file that does not exist', async () => {
  await using directory = makeTempDir();
  for (let link = 0; link < 41; link++) {
    fs.symlinkSync(`link${link + 1}`, directory.join(`link${link}`));
  }
  await assert.rejects(findTarget(directory.join('link0')), { code: 'ELOOP' });
  const real = fs.realpathSync(directory.path);
  assert.deepEqual(await findTarget(directory.join('link2')), { path: `${real}/link41` });
});
