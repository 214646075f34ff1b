import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, test } from 'node:test';
import type { QemuFileOps } from '../../lib/contract/ops.ts';
import {
  type Backend,
  collect,
  isSettled,
  pattern,
  promised,
  readOnce,
  rejectsWith,
  Subject,
  type Traits,
} from '../helpers/transports/backend.ts';
import { until } from '../helpers/until.ts';

const MIB = 1024 * 1024;
const EMPTY = new Uint8Array(0);
const LIMITS = { timeout: 300_000 };

type Check = (subject: Subject) => Promise<void>;

/**
 * Registers the tests that a backend must pass, those that apply to it.
 *
 * @param name - Of the backend.
 * @param traits - Its abilities.
 * @param open - Makes a fresh one, with its other side; each test calls it once.
 */
export function conformance(name: string, traits: Traits, open: () => Promise<Backend>): void {
  const { isStore, isBounded, canBreak, canHalfClose, canReset, hasReturnPath } = traits;
  const writes = traits.direction !== 'read';
  const reads = traits.direction !== 'write';
  const check = (behaviour: string, applies: boolean | undefined, body: Check) => {
    if (applies !== true) return;
    test(behaviour, LIMITS, async () => {
      await using subject = new Subject(await open(), traits);
      await body(subject);
    });
  };

  describe(name, () => {
    check('has the operations of its direction', true, async ({ ops }) => {
      assert.equal(ops.writevBuffer !== undefined, writes);
      assert.equal(ops.getBuffer !== undefined, reads);
    });
    check('passes on what is written, whole and in order', writes, writtenInOrder);
    check('takes a batch of more than 1024 buffers', writes, manyBuffers);
    check('takes a batch of 8 MiB', writes, bigBatch);
    check('lets the buffers be used again after the answer', writes, buffersReused);
    check('answers a big batch only when the other side reads', writes && isBounded, backpressure);
    check('wakes a write that waits, when shut down', writes && isBounded, shutDownWakesWrite);
    check('fails a write when the other side went away', writes && canBreak, brokenPipe);
    check('gives what was sent, whole and in order', reads, readInOrder);
    check('gives 8 MiB whole and in order', reads, bigRead);
    check('gives the end again and again', reads, endStays);
    check('waits for bytes that are not there yet', reads && !isStore, waitsForBytes);
    check('wakes a read that waits, when closed', reads && !isStore, closeWakesRead);
    check('wakes a read that waits, when shut down', reads && !isStore, shutDownWakesRead);
    check('can be closed twice', true, closedTwice);
    check('fails operations after the close', true, usedAfterClose);
    check('gives a descriptor or -1, and -1 after the close', true, descriptor);
    check('reads, writes and seeks at offsets', reads && writes && isStore, seeks);
    check('goes on reading after it ended its writing', canHalfClose, ownHalfClose);
    check('goes on writing after the other side ended its own', canHalfClose, peerHalfClose);
    check('fails a read with ECONNRESET after a reset', reads && canReset, peerReset);
    check('fails a write that waits after a reset', writes && canReset, peerResetWhileWriting);
    check('does not look ended when closed with an error', writes && canReset, ownReset);
    check('closes when the last table over it closes', hasReturnPath, returnPath);
    check('gives a direction to one table only', hasReturnPath, exclusiveDirections);
    test('leaves no descriptor and no listener', LIMITS, () => leavesNothing(open, traits));
  });
}

async function writtenInOrder(subject: Subject): Promise<void> {
  const finish = subject.collect();
  await subject.write(Buffer.from('one'), EMPTY, Buffer.from('two'));
  await subject.write(EMPTY);
  await subject.write(Buffer.from('three'), EMPTY);
  await subject.write(EMPTY, Buffer.from('four').subarray(1));
  assert.equal((await finish()).toString(), 'onetwothreeour');
}

async function manyBuffers(subject: Subject): Promise<void> {
  const finish = subject.collect();
  const batch: Buffer[] = [];
  let expected = '';
  for (let i = 0; i < 3000; i++) {
    const text = i % 7 === 0 ? '' : `${i};`;
    batch.push(Buffer.from(text));
    expected += text;
  }
  await subject.write(...batch);
  assert.equal((await finish()).toString(), expected);
}

async function bigBatch(subject: Subject): Promise<void> {
  const bytes = pattern(8 * MIB);
  const finish = subject.collect();
  await subject.write(
    bytes.subarray(0, 4096),
    bytes.subarray(4096, 3 * MIB),
    bytes.subarray(3 * MIB),
  );
  assert.ok((await finish()).equals(bytes));
}

async function buffersReused(subject: Subject): Promise<void> {
  const finish = subject.collect();
  const buffer = Buffer.alloc(1000, 'a');
  await subject.write(buffer.subarray(0, 500), buffer.subarray(500));
  buffer.fill('b');
  await subject.write(buffer);
  buffer.fill('c');
  assert.equal((await finish()).toString(), 'a'.repeat(1000) + 'b'.repeat(1000));
}

async function backpressure(subject: Subject): Promise<void> {
  const bytes = pattern(8 * MIB);
  const written = subject.startWrite(bytes);
  assert.equal(await isSettled(written), false);
  const finish = subject.collect();
  assert.equal(await written, bytes.length);
  assert.ok((await finish()).equals(bytes));
}

async function shutDownWakesWrite(subject: Subject): Promise<void> {
  const written = subject.startWrite(pattern(8 * MIB));
  assert.equal(await isSettled(written), false);
  const failed = rejectsWith(written);
  await subject.ops.shutDown?.(true, true);
  await failed;
  await rejectsWith(subject.startWrite(Buffer.from('more')));
}

async function brokenPipe(subject: Subject): Promise<void> {
  await subject.peer.close();
  const chunk = Buffer.alloc(65536);
  const writeOn = async () => {
    // The kernel's buffers hold far fewer bytes than this.
    for (let i = 0; i < 1000; i++) await subject.startWrite(chunk);
  };
  await rejectsWith(writeOn(), 'EPIPE', 'ECONNRESET');
  await rejectsWith(subject.startWrite(chunk), 'EPIPE', 'ECONNRESET');
}

async function readInOrder(subject: Subject): Promise<void> {
  await subject.feed(Buffer.from('one'), Buffer.from('two'), Buffer.from('three'));
  assert.equal((await subject.readToEnd()).toString(), 'onetwothree');
}

async function bigRead(subject: Subject): Promise<void> {
  const bytes = pattern(8 * MIB);
  await subject.feed(bytes.subarray(0, 100), bytes.subarray(100, 5 * MIB), bytes.subarray(5 * MIB));
  assert.ok((await subject.readToEnd()).equals(bytes));
}

async function endStays(subject: Subject): Promise<void> {
  await subject.feed(Buffer.from('all'));
  assert.equal((await subject.readToEnd()).toString(), 'all');
  for (let i = 0; i < 3; i++) assert.equal((await subject.read()).length, 0);
}

async function waitsForBytes(subject: Subject): Promise<void> {
  const read = subject.read();
  assert.equal(await isSettled(read), false);
  await subject.feed(Buffer.from('late'));
  const first = await read;
  const rest = await subject.readToEnd();
  assert.equal(Buffer.concat([first, rest]).toString(), 'late');
}

async function closeWakesRead(subject: Subject): Promise<void> {
  const read = subject.read();
  assert.equal(await isSettled(read), false);
  const woken = read.then(
    (bytes) => assert.equal(bytes.length, 0),
    () => rejectsWith(read),
  );
  const closed = promised(() => subject.ops.close?.());
  await woken;
  await subject.peer.close();
  await closed;
}

async function shutDownWakesRead(subject: Subject): Promise<void> {
  const read = subject.read();
  assert.equal(await isSettled(read), false);
  const failed = rejectsWith(read);
  await subject.ops.shutDown?.(true, true);
  await failed;
  await rejectsWith(subject.read());
}

async function closedTwice(subject: Subject): Promise<void> {
  const first = promised(() => subject.ops.close?.());
  const second = promised(() => subject.ops.close?.());
  await subject.peer.close();
  await Promise.all([first, second]);
  await subject.ops.close?.();
}

async function usedAfterClose(subject: Subject): Promise<void> {
  const closed = promised(() => subject.ops.close?.());
  if (subject.ops.getBuffer) await rejectsWith(subject.read());
  if (subject.ops.writevBuffer) await rejectsWith(subject.startWrite(Buffer.from('x')));
  await subject.peer.close();
  await closed;
  if (subject.ops.getBuffer) await rejectsWith(subject.read());
  if (subject.ops.writevBuffer) await rejectsWith(subject.startWrite(Buffer.from('x')));
}

async function descriptor(subject: Subject): Promise<void> {
  const fd = subject.ops.getFd?.() ?? -1;
  assert.ok(Number.isInteger(fd) && fd >= -1);
  subject.ops.setBlocking?.(false);
  const closed = promised(() => subject.ops.close?.());
  await subject.peer.close();
  await closed;
  assert.equal(subject.ops.getFd?.() ?? -1, -1);
}

async function seeks(subject: Subject): Promise<void> {
  const { ops } = subject;
  const at = async (offset: number, length: number) => {
    const buffer = Buffer.alloc(length, '.');
    const count = await ops.getBufferAt?.(buffer, offset);
    return `${count}:${buffer.toString()}`;
  };
  await subject.write(Buffer.from('abcdef'));
  assert.equal(await ops.getOffset?.(), 6);
  assert.equal(await ops.putBufferAt?.(Buffer.from('XY'), 2), 2);
  assert.equal(await at(1, 4), '4:bXYe');
  assert.equal(await at(4, 4), '2:ef..');
  assert.equal(await at(6, 2), '0:..');
  assert.equal(await ops.getOffset?.(), 6);
  assert.equal(await ops.setOffset?.(1, 'set'), 1);
  assert.equal((await subject.read()).toString(), 'bXYef');
  assert.equal(await ops.setOffset?.(-2, 'end'), 4);
  assert.equal(await ops.getOffset?.(), 4);
  assert.equal(await ops.setOffset?.(-1, 'current'), 3);
  await subject.write(Buffer.from('!!'));
  await rejectsWith(
    promised(() => ops.setOffset?.(-1, 'set')),
    'EINVAL',
  );
  await rejectsWith(
    promised(() => ops.getBufferAt?.(Buffer.alloc(1), 0.5)),
    'EINVAL',
  );
  await rejectsWith(
    promised(() => ops.putBufferAt?.(Buffer.alloc(1), -1)),
    'EINVAL',
  );
  assert.equal(await at(0, 6), '6:abX!!f');
}

async function ownHalfClose(subject: Subject): Promise<void> {
  await subject.write(Buffer.from('question'));
  const asked = collect(async () => (await subject.peer.read?.()) ?? EMPTY);
  await subject.ops.shutDown?.(false, true);
  assert.equal((await asked).toString(), 'question');
  await rejectsWith(subject.startWrite(Buffer.from('more')));
  await subject.feed(Buffer.from('answer'));
  assert.equal((await subject.readToEnd()).toString(), 'answer');
}

async function peerHalfClose(subject: Subject): Promise<void> {
  await subject.feed(Buffer.from('question'));
  assert.equal((await subject.readToEnd()).toString(), 'question');
  const finish = subject.collect();
  await subject.write(Buffer.from('ans'));
  await subject.write(Buffer.from('wer'));
  assert.equal((await finish()).toString(), 'answer');
}

async function peerReset(subject: Subject): Promise<void> {
  await subject.peer.write?.(Buffer.from('x'));
  assert.equal((await subject.read()).toString(), 'x');
  const read = subject.read();
  assert.equal(await isSettled(read), false);
  const failed = rejectsWith(read, 'ECONNRESET');
  subject.peer.reset?.();
  await failed;
  await rejectsWith(subject.read(), 'ECONNRESET');
}

async function peerResetWhileWriting(subject: Subject): Promise<void> {
  const written = subject.startWrite(pattern(8 * MIB));
  const failed = rejectsWith(written, 'ECONNRESET', 'EPIPE');
  assert.equal(await isSettled(written), false);
  subject.peer.reset?.();
  await failed;
  await rejectsWith(subject.startWrite(Buffer.from('more')), 'ECONNRESET', 'EPIPE');
}

async function ownReset(subject: Subject): Promise<void> {
  await subject.write(Buffer.from('half of '));
  assert.equal((await subject.peer.read?.())?.toString(), 'half of ');
  const rest = subject.peer.read?.() ?? assert.fail('the peer must read');
  const failed = assert.rejects(rest);
  await promised(() => subject.ops.close?.(new Error('not whole')));
  await failed;
}

function secondTable({ ops }: Subject): QemuFileOps {
  const table = ops.getReturnPath?.();
  assert.ok(table && 'writevBuffer' in table);
  return table;
}

async function returnPath(subject: Subject): Promise<void> {
  const back = secondTable(subject);
  await subject.write(Buffer.from('there'));
  assert.equal((await subject.peer.read?.())?.toString(), 'there');
  await subject.ops.close?.();
  const end = collect(async () => (await subject.peer.read?.()) ?? EMPTY);
  await subject.peer.write?.(Buffer.from('back'));
  assert.equal((await readOnce(back)).toString(), 'back');
  assert.equal(await isSettled(end), false);
  const closed = promised(() => back.close?.());
  assert.equal((await end).length, 0);
  await subject.peer.close();
  await closed;
}

async function exclusiveDirections(subject: Subject): Promise<void> {
  const back = secondTable(subject);
  const read = subject.read();
  await rejectsWith(readOnce(back), 'EBUSY');
  await subject.write(Buffer.from('x'));
  await rejectsWith(
    promised(() => back.writevBuffer?.([Buffer.from('y')], 0)),
    'EBUSY',
  );
  await subject.peer.write?.(Buffer.from('mine'));
  assert.equal((await read).toString(), 'mine');
  const woken = rejectsWith(subject.read());
  await subject.ops.close?.();
  await woken;
  await subject.peer.write?.(Buffer.from('yours'));
  assert.equal((await readOnce(back)).toString(), 'yours');
  const closed = promised(() => back.close?.());
  await subject.peer.close();
  await closed;
}

async function leavesNothing(open: () => Promise<Backend>, traits: Traits): Promise<void> {
  const countFds = () => readdirSync('/proc/self/fd').length;
  const before = countFds();
  {
    await using subject = new Subject(await open(), traits);
    if (subject.ops.writevBuffer) {
      const finish = subject.collect();
      await subject.write(Buffer.from('x'));
      await finish();
    } else {
      await subject.feed(Buffer.from('x'));
      await subject.readToEnd();
      await subject.ops.close?.();
    }
    assert.deepEqual(subject.leftovers(), []);
  }
  await until(() => countFds() <= before, { what: 'the descriptors to be closed' });
}
