// Tables that go wrong by a plan: exactly as planned, and not at all where nothing is planned.
import assert from 'node:assert/strict';
import { openSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { type Fault, faultyOps, randomFaults } from '../../../adapters/faulty/index.ts';
import { fdOps, memoryOps, memoryPair, socketOps } from '../../../adapters/index.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { pattern } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { withoutLeaks } from '../../helpers/leaks.ts';
import {
  type Backend,
  isSettled,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { Sink, Source } from '../../helpers/transports/backends.ts';
import { plainSockets } from '../../helpers/transports/sockets.ts';
import { streamPeer, watchListeners } from '../../helpers/transports/stream-peer.ts';
import { conformance } from '../ops-conformance.ts';

const CONNECTION = {
  direction: 'both',
  isBounded: true,
  canBreak: true,
  canHalfClose: true,
  hasReturnPath: true,
} as const;

/** Plans under which all bytes still arrive. */
const HARMLESS: Record<string, Fault[]> = {
  'nothing planned': [],
  'late answers': [
    { on: 'getBuffer', do: 'late', turns: 2 },
    { on: 'writevBuffer', do: 'late', turns: 2 },
  ],
  'small pieces': [
    { on: 'getBuffer', do: 'trickle', size: 30_000 },
    { on: 'writevBuffer', do: 'trickle', size: 30_000 },
  ],
};

for (const [name, faults] of Object.entries(HARMLESS)) {
  conformance(`faulty memory, growing: ${name}`, { direction: 'both', isStore: true }, async () => {
    const ops = memoryOps();
    let read = 0;
    return {
      ops: faultyOps(ops, faults),
      peer: {
        async read() {
          const bytes = ops.contents().slice(read);
          read += bytes.length;
          return bytes;
        },
        write: async (bytes) => void ops.writevBuffer([bytes], 0),
        async close() {},
      },
    };
  });

  conformance(`faulty memory, a pair: ${name}`, { ...CONNECTION, canReset: true }, async () => {
    const [ops, other] = memoryPair();
    return {
      ops: faultyOps(ops, faults),
      peer: {
        read: () => readOnce(other),
        write: async (bytes) => void (await other.writevBuffer([bytes], 0)),
        end: async () => other.shutDown(false, true),
        close: () => other.close(),
        reset: () => void other.close(new Error('reset by the test')),
      },
    };
  });

  conformance(`faulty socket over TCP: ${name}`, { ...CONNECTION, canReset: true }, async () => {
    const [socket, other] = await plainSockets();
    const leftovers = watchListeners(socket);
    const peer = streamPeer(other, () => other.resetAndDestroy());
    return { ops: faultyOps(socketOps(socket), faults), peer, leftovers };
  });

  conformance(`faulty file: ${name}`, { direction: 'both', isStore: true }, () =>
    fileBackend(faults),
  );
}

async function fileBackend(faults: Fault[]): Promise<Backend> {
  const directory = makeTempDir();
  const path = directory.join('file');
  let read = 0;
  return {
    ops: faultyOps(fdOps(openSync(path, 'w+')), faults),
    peer: {
      async read() {
        const bytes = readFileSync(path).subarray(read);
        read += bytes.length;
        return bytes;
      },
      write: async (bytes) => writeFileSync(path, bytes, { flag: 'a' }),
      async close() {},
    },
    dispose: async () => directory.remove(),
  };
}

/** Reads a table until its end, noting how many bytes came each time. */
async function readAll(
  ops: QemuFileOps,
  size = 65536,
): Promise<{ bytes: Buffer; sizes: number[] }> {
  const chunks: Buffer[] = [];
  for (;;) {
    const buffer = new Uint8Array(size);
    const answer = (await ops.getBuffer?.(buffer, 0)) ?? 0;
    const chunk = typeof answer === 'number' ? buffer.subarray(0, answer) : answer;
    if (chunk.length === 0) break;
    chunks.push(Buffer.from(chunk));
  }
  return { bytes: Buffer.concat(chunks), sizes: chunks.map((chunk) => chunk.length) };
}

const bytes = pattern(1000);

/** Sources that give the same bytes: copied or handed over, at once or later. */
const SOURCES = [
  { answering: 'sync', hands: false },
  { answering: 'sync', hands: true },
  { answering: 'async', hands: false },
  { answering: 'async', hands: true },
] as const;

describe('reads go wrong', () => {
  for (const options of SOURCES) {
    const kind = `${options.answering}, ${options.hands ? 'handed over' : 'copied'}`;
    const over = (...faults: Fault[]) => faultyOps(new Source([bytes], options), faults);

    test(`by stopping at a byte (${kind})`, async () => {
      const read = await readAll(over({ on: 'getBuffer', at: 300, do: 'short' }));
      assert.deepEqual(read.sizes, [300, 700]);
      assert.ok(read.bytes.equals(bytes));
    });

    test(`by few bytes at a time, from a byte on (${kind})`, async () => {
      const read = await readAll(over({ on: 'getBuffer', at: 400, do: 'trickle', size: 250 }));
      assert.deepEqual(read.sizes, [400, 250, 250, 100]);
      assert.ok(read.bytes.equals(bytes));
    });

    test(`by an early end, which stays (${kind})`, async () => {
      const ops = over({ on: 'getBuffer', at: 300, do: 'end' });
      assert.ok((await readAll(ops)).bytes.equals(bytes.subarray(0, 300)));
      assert.equal((await readAll(ops)).bytes.length, 0);
    });

    test(`by a changed byte, and no other (${kind})`, async () => {
      const original = Buffer.from(bytes);
      const read = await readAll(over({ on: 'getBuffer', at: 300, do: 'corrupt', xor: 0x41 }));
      const expected = Buffer.from(original);
      expected[300] = (original[300] ?? 0) ^ 0x41;
      assert.ok(read.bytes.equals(expected));
    });

    test(`by an error at a byte, which stays (${kind})`, async () => {
      const ops = over({ on: 'getBuffer', at: 300, do: 'fail', code: 'ETIMEDOUT' });
      assert.equal((await readOnce(ops)).length, 300);
      for (let i = 0; i < 2; i++)
        await rejectsWith(
          promised(() => readOnce(ops)),
          'ETIMEDOUT',
        );
    });
  }

  test('and succeed after EAGAIN', async () => {
    const fault: Fault = { on: 'getBuffer', at: 300, do: 'fail', code: 'EAGAIN' };
    const ops = faultyOps(new Source([bytes]), fault);
    assert.equal((await readOnce(ops)).length, 300);
    await rejectsWith(
      promised(() => readOnce(ops)),
      'EAGAIN',
    );
    assert.equal((await readOnce(ops)).length, 700);
  });

  test('at the first byte where none is named, and several at one place in their order', async () => {
    const ops = faultyOps(new Source([bytes]), [
      { on: 'getBuffer', do: 'corrupt', xor: 1 },
      { on: 'getBuffer', do: 'late', turns: 1 },
      { on: 'getBuffer', at: 0, do: 'fail', code: 'EIO' },
    ]);
    await rejectsWith(
      promised(() => readOnce(ops)),
      'EIO',
    );
    assert.deepEqual(
      ops.happened.map((fault) => fault.do),
      ['corrupt', 'late', 'fail'],
    );
  });

  test('without changes to the buffer that the backend still owns', async () => {
    const held = Buffer.from(bytes);
    const ops = faultyOps({ getBuffer: () => held }, { on: 'getBuffer', at: 5, do: 'corrupt' });
    await readOnce(ops);
    assert.equal((await readOnce(ops))[0], (bytes[5] ?? 0) ^ 255);
    assert.ok(held.equals(bytes));
  });

  test('and bytes after the next fault go to the next file when this one closes', async () => {
    const [ops, other] = memoryPair();
    await other.writevBuffer([bytes], 0);
    const second = ops.getReturnPath();
    const ops1 = faultyOps(
      { ...ops, getBuffer: () => Buffer.from(bytes) },
      { on: 'getBuffer', at: 10, do: 'short' },
    );
    assert.equal((await readOnce(ops1)).length, 10);
    await ops1.close?.();
    assert.ok(second !== null);
    assert.ok((await readOnce(second)).equals(bytes.subarray(10)));
    await second.close();
    await other.close();
  });
});

describe('writes go wrong', () => {
  const write = (ops: QemuFileOps, ...buffers: Uint8Array[]) =>
    promised(() => ops.writevBuffer?.(buffers, 0) ?? -1);

  for (const answering of ['sync', 'async'] as const) {
    const over = (...faults: Fault[]) => {
      const sink = new Sink(answering);
      return { sink, ops: faultyOps(sink, faults) };
    };

    test(`by taking less than all (${answering})`, async () => {
      const { sink, ops } = over({ on: 'writevBuffer', at: 1300, do: 'short' });
      assert.equal(await write(ops, bytes), 1000);
      assert.equal(await write(ops, bytes.subarray(0, 200), bytes.subarray(200)), 300);
      assert.ok(sink.written.equals(Buffer.concat([bytes, bytes.subarray(0, 300)])));
    });

    test(`by an error after exactly the bytes before it, which stays (${answering})`, async () => {
      const { sink, ops } = over({ on: 'writevBuffer', at: 300, do: 'fail', code: 'ENOSPC' });
      await rejectsWith(write(ops, bytes), 'ENOSPC');
      await rejectsWith(write(ops, bytes), 'ENOSPC');
      assert.ok(sink.written.equals(bytes.subarray(0, 300)));
    });

    test(`by small pieces, in which all arrives (${answering})`, async () => {
      const { sink, ops } = over({ on: 'writevBuffer', at: 100, do: 'trickle', size: 400 });
      assert.equal(await write(ops, bytes.subarray(0, 50), bytes.subarray(50)), 1000);
      assert.deepEqual(sink.shape, [[50, 50], [400], [400], [100]]);
      assert.ok(sink.written.equals(bytes));
    });

    test(`by a changed byte, but not in the buffer of the caller (${answering})`, async () => {
      const original = Buffer.from(bytes);
      const { sink, ops } = over({ on: 'writevBuffer', at: 300, do: 'corrupt', xor: 7 });
      assert.equal(await write(ops, bytes), 1000);
      const expected = Buffer.from(original);
      expected[300] = (original[300] ?? 0) ^ 7;
      assert.ok(sink.written.equals(expected));
      assert.ok(bytes.equals(original));
    });

    test(`by results that arrive some turns after the bytes were sent (${answering})`, async () => {
      const { sink, ops } = over({ on: 'writevBuffer', do: 'late', turns: 60 });
      const answer = write(ops, bytes);
      assert.equal(await isSettled(answer), false);
      assert.ok(sink.written.equals(bytes));
      assert.equal(await answer, 1000);
    });
  }

  test('by an end that the peer also sees', async () => {
    const [below, other] = memoryPair();
    const ops = faultyOps(below, { on: 'writevBuffer', at: 300, do: 'end' });
    await rejectsWith(write(ops, bytes), 'EPIPE');
    assert.equal((await readOnce(other)).length, 300);
    assert.equal((await readOnce(other)).length, 0);
    await ops.close?.();
    await other.close();
  });

  test('by a reset, which both directions and the other side feel', async () => {
    const [below, other] = memoryPair();
    const ops = faultyOps(below, { on: 'writevBuffer', at: 300, do: 'reset' });
    const reading = rejectsWith(
      promised(() => readOnce(ops)),
      'ECONNRESET',
    );
    await rejectsWith(write(ops, bytes), 'ECONNRESET');
    await reading;
    await rejectsWith(
      promised(() => readOnce(ops)),
      'ECONNRESET',
    );
    assert.equal((await readOnce(other)).length, 300);
    await rejectsWith(
      promised(() => readOnce(other)),
      'ECONNRESET',
    );
    await ops.close?.();
    await other.close();
  });

  test('by early results: the next write reports a failure in the background', async () => {
    const sink = new Sink('manual');
    const ops = faultyOps(sink, { on: 'writevBuffer', do: 'early' });
    const own = Buffer.from(bytes);
    assert.equal(ops.writevBuffer?.([own], 0), 1000);
    own.fill(0);
    const second = write(ops, bytes);
    assert.equal(await isSettled(second), false);
    sink.take();
    assert.equal(await second, 1000);
    assert.equal(sink.written.compare(Buffer.concat([bytes, bytes])), 0);
    sink.fail(Object.assign(new Error('full'), { code: 'ENOSPC' }));
    assert.equal(await isSettled(Promise.resolve()), true);
    await rejectsWith(write(ops, bytes), 'ENOSPC');
    await rejectsWith(
      promised(() => ops.close?.()),
      'ENOSPC',
    );
    assert.ok(sink.closes[0] instanceof Error);
  });

  test('by early results: close reports the bytes that a reset lost in the background', async () => {
    const sink = new Sink('sync');
    const ops = faultyOps(sink, [
      { on: 'writevBuffer', do: 'early' },
      { on: 'writevBuffer', at: 2, do: 'reset' },
    ]);
    assert.equal(await write(ops, bytes), 1000);
    await rejectsWith(
      promised(() => ops.close?.()),
      'ECONNRESET',
    );
    assert.equal(sink.closes.length, 1);
  });

  test('by early results: close waits for the write in the background', async () => {
    const sink = new Sink('manual');
    const ops = faultyOps(sink, { on: 'writevBuffer', do: 'early' });
    assert.equal(await write(ops, bytes), 1000);
    const closed = promised(() => ops.close?.());
    assert.equal(await isSettled(closed), false);
    sink.take();
    await closed;
    assert.deepEqual(sink.closes, [undefined]);
  });
});

describe('a stall', () => {
  test('ends when it is released', async () => {
    const sink = new Sink();
    const ops = faultyOps(sink, { on: 'writevBuffer', at: 300, do: 'stall' });
    const answer = promised(() => ops.writevBuffer?.([bytes], 0));
    assert.equal(await isSettled(answer), false);
    assert.deepEqual([ops.isStalled, sink.written.length], [true, 300]);
    ops.release();
    assert.equal(await answer, 1000);
    assert.deepEqual([ops.isStalled, sink.written.length], [false, 1000]);
  });

  test('ends after its time', async () => {
    await withoutLeaks(async () => {
      const source = new Source([bytes]);
      const ops = faultyOps(source, { on: 'getBuffer', at: 10, do: 'stall', ms: 1 });
      assert.ok((await readAll(ops)).bytes.equals(bytes));
    });
  });

  for (const on of ['getBuffer', 'writevBuffer'] as const) {
    test(`of ${on} ends by shutDown and by close, and leaves no timer`, async () => {
      await withoutLeaks(async () => {
        for (const how of ['shutDown', 'close'] as const) {
          const [below, other] = memoryPair();
          const ops = faultyOps(below, { on, do: 'stall', ms: 1e8 });
          const waiting = promised(() =>
            on === 'getBuffer' ? readOnce(ops) : ops.writevBuffer?.([bytes], 0),
          );
          const failed = rejectsWith(waiting, 'ECANCELED');
          assert.equal(ops.isStalled, true);
          if (how === 'shutDown') await ops.shutDown?.(on === 'getBuffer', on === 'writevBuffer');
          else await ops.close?.();
          await failed;
          await ops.close?.();
          await other.close();
        }
      });
    });
  }

  test('that close ends in the middle of a batch does not look like an end', async () => {
    const [below, other] = memoryPair();
    const ops = faultyOps(below, { on: 'writevBuffer', at: 300, do: 'stall' });
    const failed = rejectsWith(
      promised(() => ops.writevBuffer?.([bytes], 0)),
      'ECANCELED',
    );
    assert.equal(await isSettled(failed), false);
    await ops.close?.();
    await failed;
    assert.equal((await readOnce(other)).length, 300);
    await rejectsWith(
      promised(() => readOnce(other)),
      'ECONNRESET',
    );
    await other.close();
  });
});

describe('other operations fail', () => {
  const calls: Record<string, (ops: QemuFileOps) => unknown> = {
    setBlocking: (ops) => ops.setBlocking?.(true),
    getReturnPath: (ops) => ops.getReturnPath?.(),
    shutDown: (ops) => ops.shutDown?.(true, true),
    getFd: (ops) => ops.getFd?.(),
    unread: (ops) => ops.unread?.([bytes]),
  };
  const onStore: typeof calls = {
    setOffset: (ops) => ops.setOffset?.(0, 'set'),
    getOffset: (ops) => ops.getOffset?.(),
    putBufferAt: (ops) => ops.putBufferAt?.(bytes, 0),
    getBufferAt: (ops) => ops.getBufferAt?.(new Uint8Array(1), 0),
  };
  const all = [...Object.entries(calls), ...Object.entries(onStore)];
  for (const [on, call] of all) {
    test(`${on}, each time, with the code that was planned`, async () => {
      const below = on in calls ? memoryPair()[0] : memoryOps();
      const fault = { on, do: 'fail', code: 'EPERM' } as Fault;
      const ops = faultyOps(below, fault);
      for (let i = 0; i < 2; i++) {
        await rejectsWith(
          promised(async () => call(ops)),
          'EPERM',
        );
      }
      assert.equal(ops.happened.length, 2);
      await ops.close?.();
    });
  }

  test('close, which still closes the wrapped backend, with an error', async () => {
    const sink = new Sink();
    const ops = faultyOps(sink, { on: 'close', do: 'fail', code: 'EDQUOT' });
    await rejectsWith(
      promised(() => ops.close?.()),
      'EDQUOT',
    );
    assert.equal((sink.closes[0] as { code?: string } | undefined)?.code, 'EDQUOT');
  });

  test('tables of the return path go wrong by the same plan', async () => {
    const [below, other] = memoryPair();
    const ops = faultyOps(below, { on: 'getBuffer', at: 4, do: 'end' });
    const back = ops.getReturnPath?.();
    assert.ok(back && !('pipe' in back));
    await other.writevBuffer([bytes], 0);
    assert.ok((await readAll(back)).bytes.equals(bytes.subarray(0, 4)));
    await Promise.all([ops.close?.(), back.close?.(), other.close()]);
  });
});

describe('a random plan', () => {
  test('is the same for the same seed, and survives JSON', () => {
    for (let seed = -50; seed < 50; seed++) {
      const plan = randomFaults(seed);
      assert.deepEqual(randomFaults(seed), plan);
      assert.deepEqual(JSON.parse(JSON.stringify(plan)), plan);
    }
  });

  test('draws every fault there is, each below the bound', () => {
    const seen = new Set<string>();
    for (let seed = 0; seed < 500; seed++) {
      const plan = randomFaults(seed, { bytes: 1000, most: 3 });
      assert.ok(plan.length >= 1 && plan.length <= 3);
      for (const fault of plan) {
        seen.add(`${fault.on} ${fault.do}`);
        if ('at' in fault) assert.ok((fault.at ?? -1) >= 0 && (fault.at ?? 1000) < 1000);
      }
    }
    const ofBytes = ['fail', 'reset', 'end', 'short', 'corrupt', 'stall', 'trickle', 'late'];
    const expected = [
      ...ofBytes.flatMap((kind) => [`getBuffer ${kind}`, `writevBuffer ${kind}`]),
      'writevBuffer early',
      ...['close', 'shutDown', 'setBlocking', 'getReturnPath', 'getFd'].map((on) => `${on} fail`),
    ];
    assert.deepEqual([...seen].sort(), expected.sort());
  });
});
