import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DuplexOps } from '../../../lib/contract/ops.ts';
import { QemuFile, QemuFileError } from '../../../lib/index.ts';
import { holdLastByte } from '../../../lib/vm/restore/hold-last-byte.ts';

/** A connection that notes what is done with it. */
function notingOps(): { ops: DuplexOps; notes: string[] } {
  const notes: string[] = [];
  const ops: DuplexOps = {
    getBuffer: () => new Promise(() => {}),
    writevBuffer: (buffers, position) => {
      const bytes = Buffer.concat(buffers);
      notes.push(`${position}: ${bytes.toString()}`);
      return bytes.length;
    },
    shutDown: (read, write) => void notes.push(`shut ${read} ${write}`),
    close: (error) => Promise.resolve(void notes.push(error ? 'broken' : 'closed')),
    getFd: () => 7,
  };
  return { ops, notes };
}

function unexpected(): Promise<void> {
  throw new Error('QEMU must not be ended');
}

test('the last byte of all is written when the stream ends in order', async () => {
  const { ops, notes } = notingOps();
  const held = holdLastByte(ops, unexpected);
  const text = Buffer.from('abcde');
  assert.equal(await held.writevBuffer([text.subarray(0, 2), text.subarray(2), Buffer.of()], 0), 5);
  text.fill(0);
  assert.equal(await held.writevBuffer([Buffer.from('f')], 5), 1);
  assert.equal(await held.writevBuffer([Buffer.from('gh')], 6), 2);
  assert.deepEqual(notes, ['0: abcd', '4: e', '5: fg']);
  await held.shutDown(false, true);
  await held.close();
  assert.deepEqual(notes.slice(3), ['7: h', 'shut false true', 'closed']);
});

test('one byte is held, and written by a close', async () => {
  const { ops, notes } = notingOps();
  const held = holdLastByte(ops, unexpected);
  assert.equal(await held.writevBuffer([Buffer.from('x')], 0), 1);
  assert.deepEqual(notes, []);
  await held.close();
  assert.deepEqual(notes, ['0: x', 'closed']);
});

test('if the stream fails, the last byte is not written, and QEMU is ended before the connection breaks', async () => {
  const { ops, notes } = notingOps();
  const file = new QemuFile(
    holdLastByte(ops, () => Promise.resolve(void notes.push('QEMU ended'))),
  );
  file.on('error', () => {});
  file.putBuffer(Buffer.from('abc'));
  await file.flush();
  file.destroy(new QemuFileError('EIO', 'the source is bad'));
  await assert.rejects(file.close(), { code: 'EIO' });
  assert.deepEqual(notes, ['0: ab', 'QEMU ended', 'broken']);
});

for (const operation of ['writevBuffer', 'getBuffer'] as const) {
  test(`QEMU is not ended if it ended the connection, as ${operation} finds out`, async () => {
    const { ops, notes } = notingOps();
    const broken = new QemuFileError('EPIPE', 'the other end has closed');
    const failing = { ...ops, [operation]: () => Promise.reject(broken) };
    const held = holdLastByte(failing, unexpected);
    const working =
      operation === 'getBuffer'
        ? held.getBuffer(Buffer.alloc(1), 0)
        : held.writevBuffer([Buffer.from('abc')], 0);
    await assert.rejects(Promise.resolve(working), { code: 'EPIPE' });
    if (operation === 'getBuffer') await held.writevBuffer([Buffer.from('abc')], 0);
    await held.close(broken);
    assert.equal(notes.at(-1), 'broken');
  });
}

test('a short write is reported', async () => {
  const held = holdLastByte({ ...notingOps().ops, writevBuffer: () => 1 }, unexpected);
  assert.notEqual(await held.writevBuffer([Buffer.from('abc')], 0), 3);
});
