import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { memoryOps } from '../../../adapters/memory/memory.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { collect, promised, readOnce, rejectsWith } from '../../helpers/transports/backend.ts';

const write = (ops: QemuFileOps, text: string, position = 0) =>
  promised(() => ops.writevBuffer?.([Buffer.from(text)], position) ?? -1);

const readAll = async (ops: QemuFileOps) => (await collect(() => readOnce(ops))).toString();

describe('a growing buffer', () => {
  test('starts with a copy of its input, and appends to it', async () => {
    const initial = Buffer.from('abc');
    const ops = memoryOps(initial);
    initial.fill('z');
    await write(ops, 'def');
    assert.equal(await readAll(ops), 'abcdef');
    assert.equal(ops.contents().toString(), 'abcdef');
  });

  test('answers every operation at once', () => {
    const ops = memoryOps();
    assert.equal(ops.writevBuffer([Buffer.from('ab'), Buffer.from('c')], 0), 3);
    assert.equal(ops.getBuffer(new Uint8Array(2), 0), 2);
    assert.equal(ops.setOffset(0, 'set'), 0);
    assert.equal(ops.getOffset(), 0);
    assert.equal(ops.putBufferAt(Buffer.from('x'), 0), 1);
    assert.equal(ops.getBufferAt(new Uint8Array(9), 1), 2);
    assert.equal(ops.close(), undefined);
  });

  test('reads on where more was written after the end was read', async () => {
    const ops = memoryOps();
    await write(ops, 'a');
    assert.equal(await readAll(ops), 'a');
    await write(ops, 'b');
    assert.equal(await readAll(ops), 'b');
  });

  test('returns the offset of the direction used last', async () => {
    const ops = memoryOps(Buffer.from('abcd'));
    assert.equal(ops.getOffset(), 0);
    ops.getBuffer(new Uint8Array(1), 0);
    assert.equal(ops.getOffset(), 1);
    await write(ops, 'e');
    assert.equal(ops.getOffset(), 5);
  });

  test('reads the gap that seeking left as zeros', async () => {
    const ops = memoryOps(Buffer.from('a'));
    assert.equal(ops.setOffset(3, 'set'), 3);
    await write(ops, 'b');
    ops.putBufferAt(Buffer.from('c'), 6);
    assert.deepEqual([...ops.contents()], [0x61, 0, 0, 0x62, 0, 0, 0x63]);
  });

  test('is not made longer by writing nothing beyond its end', async () => {
    const ops = memoryOps(Buffer.from('a'));
    ops.setOffset(3, 'set');
    await write(ops, '');
    ops.putBufferAt(new Uint8Array(0), 9);
    assert.equal(ops.contents().length, 1);
  });

  test('keeps its contents after the close', async () => {
    const ops = memoryOps();
    await write(ops, 'kept');
    ops.close();
    assert.equal(ops.contents().toString(), 'kept');
  });

  test('accepts bytes up to the limit, and refuses a batch beyond it with ENOSPC, whole', async () => {
    const ops = memoryOps(undefined, { limit: 6 });
    await write(ops, 'abcd');
    await assert.rejects(write(ops, 'efg', 4), { code: 'ENOSPC', position: 4 });
    await rejectsWith(
      promised(() => ops.putBufferAt(Buffer.from('xyz'), 4)),
      'ENOSPC',
    );
    await write(ops, 'ef', 4);
    await rejectsWith(write(ops, 'g', 6), 'ENOSPC');
    assert.equal(ops.contents().toString(), 'abcdef');
  });

  test('refuses an invalid limit', () => {
    assert.throws(() => memoryOps(undefined, { limit: -1 }), RangeError);
    assert.throws(() => memoryOps(undefined, { limit: Number.NaN }), RangeError);
  });
});
