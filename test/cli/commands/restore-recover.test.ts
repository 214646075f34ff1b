import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';

test('restore --lazy --recover says what to do about a QEMU that takes no new monitor', async () => {
  await using dir = makeTempDir();
  const path = dir.join('qmp');
  // As a QEMU whose main thread waits for a page: the kernel connects, and QEMU says nothing.
  const server = createServer().listen(path);
  await once(server, 'listening');
  try {
    const { code, stderr } = await run([
      ...['restore', '--lazy', '--recover', '--qmp', path, dir.join('vm.mig')],
    ]);
    assert.equal(code, 4);
    assert.match(stderr, /waits for a page of its guest, and takes no new monitor connection/);
    assert.match(stderr, /connected before the restore, with "oob".* or end this QEMU and restore/);
  } finally {
    server.close();
  }
});
