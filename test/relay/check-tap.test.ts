// Somebody who reads along with a relay: at which pace, how long, and what becomes of the relay by it.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile, QemuFileError } from '../../lib/index.ts';
import { CheckTap, type RelayCheck } from '../../lib/relay/check-tap.ts';
import { relay } from '../../lib/relay/relay.ts';
import type { RelayResult } from '../../lib/relay/relay-types.ts';
import { pattern, piecesOf, turn } from '../helpers/bytes.ts';
import { Feed, Sink, Source } from '../helpers/transports/backends.ts';
import { until, within } from '../helpers/until.ts';

function from(...chunks: Uint8Array[]): QemuFile {
  return new QemuFile(new Source(chunks, { answering: 'async', hands: true }));
}

function failureOf({ complete, failure }: RelayResult): [end: string | null, code: string] {
  assert.equal(complete, false);
  assert.ok(failure !== null);
  return [failure.end, failure.error.code];
}

/** A check that reads everything, and the bytes received so far. */
function gathering(): { check: RelayCheck; chunks: Buffer[]; error: () => unknown } {
  const chunks: Buffer[] = [];
  let failure: unknown = null;
  const check: RelayCheck = async (stream) => {
    try {
      for await (const chunk of stream) chunks.push(Buffer.from(chunk));
    } catch (error) {
      failure = error;
      throw error;
    }
  };
  return { check, chunks, error: () => failure };
}

/** Looks at all that comes. */
async function drain(stream: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const chunk of stream) assert.ok(chunk.length > 0);
}

/** A promise that is settled from outside. */
function gate(): { passed: Promise<void>; open: () => void } {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { passed, open };
}

function inTime<T>(work: Promise<T>): Promise<T> {
  return within(work, { what: 'the relay to end' });
}

/** Collect unhandled rejections while a function runs. */
async function withoutStrayRejections(work: () => Promise<void>): Promise<void> {
  const strays: unknown[] = [];
  const note = (reason: unknown): void => void strays.push(reason);
  process.on('unhandledRejection', note);
  try {
    await work();
    for (let turns = 0; turns < 5; turns += 1) await turn();
  } finally {
    process.off('unhandledRejection', note);
  }
  assert.deepEqual(strays, []);
}

describe('a check of a relay', () => {
  test('gets all bytes in their order, and is waited for', async () => {
    const bytes = pattern(1_000_003);
    const { check, chunks } = gathering();
    const sink = new Sink('async');
    const result = await relay(from(...piecesOf(bytes, 65_536)), new QemuFile(sink), { check });
    assert.equal(result.complete, true);
    assert.ok(Buffer.concat(chunks).equals(bytes));
    assert.ok(sink.written.equals(bytes));
    assert.deepEqual(sink.closes, [undefined]);
  });

  test('can keep its chunks', async () => {
    const kept: Uint8Array[] = [];
    const bytes = pattern(300_000);
    const check: RelayCheck = async (stream) => {
      for await (const chunk of stream) kept.push(chunk);
    };
    await relay(from(...piecesOf(bytes, 10_000)), new QemuFile(new Sink('async')), { check });
    assert.ok(Buffer.concat(kept).equals(bytes));
  });

  test('sees only the end of an empty stream, which still fails', async () => {
    const { check, chunks } = gathering();
    const result = await relay(from(), new QemuFile(new Sink()), { check });
    assert.deepEqual(failureOf(result), ['from', 'ENODATA']);
    assert.deepEqual(chunks, []);
  });

  test('has the end of the destination wait for its judgement', async () => {
    const judged = gate();
    const sink = new Sink('async');
    const seen = gate();
    const check: RelayCheck = async (stream) => {
      await drain(stream);
      seen.open();
      await judged.passed;
    };
    const relaying = relay(from(pattern(1000)), new QemuFile(sink), { check });
    await seen.passed;
    for (let turns = 0; turns < 20; turns += 1) await turn();
    assert.equal(sink.written.length, 1000);
    assert.deepEqual(sink.closes, []);
    judged.open();
    assert.equal((await relaying).complete, true);
    assert.deepEqual(sink.closes, [undefined]);
  });

  test('that is slow slows the source, and memory stays bounded', async () => {
    const feed = new Feed();
    const sink = new Sink('async');
    let wake = () => {};
    let taken = 0;
    const check: RelayCheck = async (stream) => {
      for await (const chunk of stream) {
        taken += chunk.length;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    };
    const relaying = relay(new QemuFile(feed), new QemuFile(sink), { check });
    const chunk = pattern(50_000);
    let given = 0;
    // With the first chunk not done with, asking has to end.
    for (let turns = 0; turns < 300; turns += 1) {
      await turn();
      if (!feed.waiting) continue;
      feed.give(Buffer.from(chunk));
      given += chunk.length;
    }
    assert.equal(feed.waiting, false);
    assert.ok(given <= 2 << 20, `${given} bytes were asked for`);
    assert.ok(taken < given, `${taken} of ${given} were taken`);
    const waking = setInterval(() => wake(), 1);
    await until(() => feed.waiting, { what: 'more to be asked for' });
    feed.give(0);
    const result = await inTime(relaying);
    clearInterval(waking);
    assert.equal(result.complete, true);
    assert.equal(taken, given);
  });

  test('that has enough early gets no more, and slows nothing any more', async () => {
    const bytes = pattern(1_000_000);
    let seen = 0;
    const check: RelayCheck = async (stream) => {
      for await (const chunk of stream) {
        seen += chunk.length;
        return;
      }
    };
    const sink = new Sink('async');
    const result = await relay(from(...piecesOf(bytes, 10_000)), new QemuFile(sink), { check });
    assert.equal(result.complete, true);
    assert.ok(sink.written.equals(bytes));
    assert.ok(seen > 0 && seen < bytes.length);
  });

  test('that reads nothing does not stop the relay', async () => {
    const bytes = pattern(500_000);
    const sink = new Sink('async');
    const check: RelayCheck = async () => {};
    const result = await relay(from(...piecesOf(bytes, 10_000)), new QemuFile(sink), { check });
    assert.equal(result.complete, true);
    assert.ok(sink.written.equals(bytes));
  });
});

describe('a check that rejects', () => {
  const fault = new QemuFileError('EBADMSG', 'that is wrong');

  test('ends the relay at once, as a failure of the source', async () => {
    await withoutStrayRejections(async () => {
      const feed = new Feed();
      const sink = new Sink('async');
      const check: RelayCheck = async (stream) => {
        await stream[Symbol.asyncIterator]().next();
        throw fault;
      };
      const relaying = relay(new QemuFile(feed), new QemuFile(sink), { check });
      await until(() => feed.waiting, { what: 'bytes to be asked for' });
      feed.give(pattern(1000));
      // The source has not ended, and never will.
      const result = await inTime(relaying);
      assert.deepEqual(failureOf(result), ['from', 'EBADMSG']);
      assert.equal(result.failure?.error, fault);
      const [closed] = sink.closes;
      assert.ok(closed instanceof QemuFileError);
      assert.deepEqual([closed.code, closed.cause], ['ECANCELED', fault]);
      assert.equal(feed.closes.length, 1);
    });
  });

  test('at the very end keeps the destination from being ended in order', async () => {
    const sink = new Sink('async');
    const check: RelayCheck = async (stream) => {
      await drain(stream);
      throw fault;
    };
    const result = await inTime(relay(from(pattern(1000)), new QemuFile(sink), { check }));
    assert.deepEqual(failureOf(result), ['from', 'EBADMSG']);
    assert.ok(sink.closes[0] instanceof QemuFileError);
  });

  test('before it looks at anything does the same, thrown or rejected', async () => {
    await withoutStrayRejections(async () => {
      const rejecting: RelayCheck = () => Promise.reject(fault);
      const throwing: RelayCheck = () => {
        throw fault;
      };
      for (const check of [rejecting, throwing]) {
        const sink = new Sink('async');
        const result = await inTime(relay(from(pattern(1000)), new QemuFile(sink), { check }));
        assert.deepEqual(failureOf(result), ['from', 'EBADMSG']);
        assert.ok(sink.closes[0] instanceof QemuFileError);
      }
    });
  });

  test('with any error is a failure', async () => {
    const check: RelayCheck = async () => {
      throw new RangeError('a bug');
    };
    const result = await inTime(relay(from(pattern(10)), new QemuFile(new Sink()), { check }));
    assert.match(result.failure?.error.message ?? '', /a bug/);
  });
});

describe('a check that waits', () => {
  test('for bytes hears of a source that fails, and the relay ends', async () => {
    await withoutStrayRejections(async () => {
      const feed = new Feed();
      const sink = new Sink('async');
      const { check, chunks, error } = gathering();
      const relaying = relay(new QemuFile(feed), new QemuFile(sink), { check });
      await until(() => feed.waiting, { what: 'bytes to be asked for' });
      feed.give(Buffer.from('abc'));
      await until(() => chunks.length === 1 && feed.waiting, { what: 'them to be looked at' });
      feed.fail(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      assert.deepEqual(failureOf(await inTime(relaying)), ['from', 'ECONNRESET']);
      await until(() => error() !== null, { what: 'the check to hear of it' });
      assert.equal((error() as QemuFileError).code, 'ECANCELED');
    });
  });

  test('for bytes hears of a destination that fails, and the relay ends', async () => {
    await withoutStrayRejections(async () => {
      const feed = new Feed();
      const sink = new Sink('manual');
      const { check, chunks, error } = gathering();
      const relaying = relay(new QemuFile(feed), new QemuFile(sink), { check });
      await until(() => feed.waiting, { what: 'bytes to be asked for' });
      feed.give(Buffer.from('abc'));
      await until(() => chunks.length === 1 && sink.busy, { what: 'them to be written' });
      sink.fail(Object.assign(new Error('full'), { code: 'ENOSPC' }));
      assert.deepEqual(failureOf(await inTime(relaying)), ['to', 'ENOSPC']);
      await until(() => error() !== null, { what: 'the check to hear of it' });
    });
  });

  const stuck = (): { check: RelayCheck; begun: Promise<void> } => {
    const { passed, open } = gate();
    const check: RelayCheck = async (stream) => {
      await stream[Symbol.asyncIterator]().next();
      open();
      await new Promise(() => {});
    };
    return { check, begun: passed };
  };

  test('for something else holds up no failure of the source', async () => {
    await withoutStrayRejections(async () => {
      const feed = new Feed();
      const { check, begun } = stuck();
      const relaying = relay(new QemuFile(feed), new QemuFile(new Sink('async')), { check });
      await until(() => feed.waiting, { what: 'bytes to be asked for' });
      feed.give(Buffer.from('abc'));
      await begun;
      await until(() => feed.waiting, { what: 'more to be asked for' });
      feed.fail(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      assert.deepEqual(failureOf(await inTime(relaying)), ['from', 'ECONNRESET']);
    });
  });

  test('for something else holds up no interruption', async () => {
    await withoutStrayRejections(async () => {
      const controller = new AbortController();
      const { check, begun } = stuck();
      const { signal } = controller;
      const sink = new Sink('async');
      const relaying = relay(from(pattern(1000)), new QemuFile(sink), { check, signal });
      await begun;
      controller.abort();
      assert.deepEqual(failureOf(await inTime(relaying)), [null, 'ECANCELED']);
      assert.ok(sink.closes[0] instanceof QemuFileError);
    });
  });
});

describe('an onlooker', () => {
  test('completes after its check, and its file drops later bytes', async () => {
    const onlooker = new CheckTap(async () => {});
    await onlooker.done;
    onlooker.file.write(pattern(100_000));
    await onlooker.file.flush();
    await onlooker.file.close();
  });

  test('ends only after all earlier bytes', async () => {
    const { check, chunks } = gathering();
    const onlooker = new CheckTap(check);
    onlooker.file.write(Buffer.from('abc'));
    const closed = onlooker.file.close();
    await onlooker.done;
    await closed;
    assert.equal(Buffer.concat(chunks).toString(), 'abc');
  });
});
