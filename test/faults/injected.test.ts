// Faults at exact bytes and at every operation, over real backends: what a QemuFile, a relay and a
// pipeline make of them, and what the other ends see.
import assert from 'node:assert/strict';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  type Fault,
  type FaultyOps,
  faultyOps,
  randomFaults,
} from '../../adapters/faulty/index.ts';
import { QemuFileError } from '../../lib/contract/errors.ts';
import { verifyStream } from '../../lib/migration/verify/verify.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { relay } from '../../lib/relay/relay.ts';
import type { RelayResult } from '../../lib/relay/relay-types.ts';
import { pattern } from '../helpers/bytes.ts';
import { watchLeaks, withoutLeaks } from '../helpers/leaks.ts';
import { workedExample } from '../helpers/streams/stream-bytes.ts';
import { type FarEnd, farEnds, type Received } from '../helpers/transports/faulty-ends.ts';
import { within } from '../helpers/until.ts';
import { xxh64 } from '../helpers/xxh64.ts';

const LIMITS = { timeout: 300_000 };
const BYTES = pattern(300_000);
const ANSWER = pattern(50_000, 7);
/** Where faults happen. */
const AT = 100_000;

/** A fault that ends a transfer, and the error of the file over it. */
interface Fatal {
  fault: Fault;
  code: string;
  operation: string;
  /** Absent: anywhere up to the fault, for the file knows only where its batch began. */
  position?: number | undefined;
}

function at(fault: Fault, code: string, isExact = true): Fatal {
  return { fault, code, operation: fault.on, ...(isExact ? { position: AT } : {}) };
}

const WRITE_FAULTS: Fatal[] = [
  at({ on: 'writevBuffer', at: AT, do: 'fail', code: 'ENOSPC' }, 'ENOSPC'),
  at({ on: 'writevBuffer', at: AT, do: 'fail', code: 'EAGAIN' }, 'EAGAIN'),
  at({ on: 'writevBuffer', at: AT, do: 'reset' }, 'ECONNRESET'),
  at({ on: 'writevBuffer', at: AT, do: 'end' }, 'EPIPE'),
  at({ on: 'writevBuffer', at: AT, do: 'short' }, 'EIO', false),
  { fault: { on: 'close', do: 'fail', code: 'EDQUOT' }, code: 'EDQUOT', operation: 'close' },
];

const READ_FAULTS: Fatal[] = [
  at({ on: 'getBuffer', at: AT, do: 'fail', code: 'ETIMEDOUT' }, 'ETIMEDOUT'),
  at({ on: 'getBuffer', at: AT, do: 'fail', code: 'EIO' }, 'EIO'),
  at({ on: 'getBuffer', at: AT, do: 'reset' }, 'ECONNRESET'),
];

/** Under these plans all bytes still arrive. */
const HARMLESS: Fault[] = [
  { on: 'getBuffer', at: AT, do: 'short' },
  { on: 'getBuffer', at: AT, do: 'fail', code: 'EAGAIN' },
  { on: 'getBuffer', at: AT, do: 'trickle', size: 5000 },
  { on: 'getBuffer', at: AT, do: 'stall', ms: 3 },
  { on: 'getBuffer', at: AT, do: 'late', turns: 3 },
  { on: 'writevBuffer', at: AT, do: 'trickle', size: 5000 },
  { on: 'writevBuffer', at: AT, do: 'stall', ms: 3 },
  { on: 'writevBuffer', at: AT, do: 'late', turns: 3 },
  { on: 'writevBuffer', at: AT, do: 'late', turns: 0 },
  { on: 'writevBuffer', at: AT, do: 'early' },
];

function assertBlames(error: QemuFileError, expected: Fatal): void {
  assert.ok(error instanceof QemuFileError, String(error));
  assert.equal(error.code, expected.code, error.message);
  assert.equal(error.operation, expected.operation, error.message);
  assert.match(error.message, new RegExp(`^${expected.code}: ${expected.operation}: `));
  if (expected.position !== undefined) assert.equal(error.position, expected.position);
  else if (expected.operation === 'writevBuffer') assert.ok((error.position ?? AT + 1) <= AT);
}

/** The far end has a beginning of the bytes, at least `claimed` of them, and knows that it is not whole. */
function assertBroken(received: Received, end: FarEnd, claimed: number, fault: Fault): void {
  if (received.how === 'absent') return;
  assert.ok(received.bytes.equals(BYTES.subarray(0, received.bytes.length)), 'other bytes came');
  if (end.keeps)
    assert.ok(received.bytes.length >= claimed, `${received.bytes.length} of ${claimed} are there`);
  // A plan that ends the transfer itself has one outcome.
  if (fault.do === 'end' || !end.tells || received.bytes.length === BYTES.length) return;
  assert.notEqual(received.how, 'end', 'a failure looked like an end');
}

/** Notes the errors that a file emits. */
function errorsOf(file: QemuFile): Error[] {
  const errors: Error[] = [];
  file.on('error', (error: Error) => errors.push(error));
  return errors;
}

for (const [name, make] of Object.entries(farEnds)) {
  describe(`a QemuFile that writes over ${name}`, LIMITS, () => {
    for (const fatal of WRITE_FAULTS) {
      const { fault } = fatal;
      test(`fails once, by name, at ${JSON.stringify(fault)}`, async () => {
        await withoutLeaks(async () => {
          const end = await make();
          const file = new QemuFile(faultyOps(end.ops, fault));
          const errors = errorsOf(file);
          const receiving = end.isTwoWay ? end.receive() : undefined;
          let claimed = 0;
          let flushed = 0;
          for (let from = 0; from < BYTES.length; from += 20_000) {
            const piece = BYTES.subarray(from, from + 20_000);
            file.write(piece, (error) => {
              if (!error) claimed += piece.length;
            });
            await file.flush().then(
              () => (flushed += piece.length),
              () => {},
            );
          }
          await assert.rejects(within(file.close(), { what: 'the close' }), (error) => {
            assertBlames(error as QemuFileError, fatal);
            return true;
          });
          assert.ok(errors.length <= 1, `${errors.length} errors`);
          for (const error of errors) assert.equal(error, file.error);
          assert.ok(claimed <= flushed && flushed >= 80_000, `${claimed}, ${flushed}`);
          // A fault that appears only at the close leaves all bytes, and no file appears.
          assertBroken(await (receiving ?? end.receive()), end, flushed, fault);
          await end.close();
        });
      });
    }
  });

  describe(`a relay to ${name}`, LIMITS, () => {
    for (const fatal of WRITE_FAULTS) {
      test(`breaks off at ${JSON.stringify(fatal.fault)}`, async () => {
        await withoutLeaks(async () => {
          const [source, target] = [await farEnds.memory(), await make()];
          const sent = source.send(BYTES);
          const receiving = target.isTwoWay ? target.receive() : undefined;
          const to = new QemuFile(faultyOps(target.ops, fatal.fault));
          const heard = source.receive();
          const result = await within(
            answered(relay(new QemuFile(source.ops), to), target, receiving),
            {
              what: 'the relay',
            },
          );
          assert.equal(result.complete, false);
          assert.equal(result.failure?.end, 'to');
          assertBlames(result.failure.error, fatal);
          const received = await (receiving ?? target.receive());
          assertBroken(received, target, result.forward.bytes, fatal.fault);
          if (fatal.operation !== 'close') assert.equal((await heard).how, 'ECONNRESET');
          await Promise.all([sent, heard, source.close(), target.close()]);
        });
      });
    }
  });

  describe(`a pipeline to ${name}`, LIMITS, () => {
    for (const fatal of WRITE_FAULTS) {
      test(`rejects at ${JSON.stringify(fatal.fault)}`, async () => {
        await withoutLeaks(async () => {
          const [source, target] = [await farEnds.memory(), await make()];
          const sent = source.send(BYTES);
          const receiving = target.isTwoWay ? target.receive() : undefined;
          const from = new QemuFile(source.ops);
          const to = new QemuFile(faultyOps(target.ops, fatal.fault));
          const piped = pipeline(from, to).then(() => to.close());
          const failed = answered(piped, target, receiving);
          await assert.rejects(within(failed, { what: 'the pipeline' }), (error) => {
            assertBlames(error as QemuFileError, fatal);
            return true;
          });
          assert.equal(to.error?.code, fatal.code);
          await Promise.allSettled([from.close(), to.close()]);
          assertBroken(await (receiving ?? target.receive()), target, 0, fatal.fault);
          await Promise.all([sent, source.close(), target.close()]);
        });
      });
    }
  });
}

/** A far end that ends its own direction once it has got all, as a QEMU does. */
async function answered<T>(
  work: Promise<T>,
  end: FarEnd,
  receiving: Promise<Received> | undefined,
): Promise<T> {
  void receiving?.then(() => end.send(new Uint8Array(0)));
  return work;
}

for (const [name, make] of Object.entries(farEnds).filter(([kind]) => kind !== 'file')) {
  describe(`reading over ${name}`, LIMITS, () => {
    for (const fatal of READ_FAULTS) {
      test(`a QemuFile fails once, by name, at ${JSON.stringify(fatal.fault)}`, async () => {
        await withoutLeaks(async () => {
          const source = await make();
          const sent = source.send(BYTES);
          const file = new QemuFile(faultyOps(source.ops, fatal.fault));
          const errors = errorsOf(file);
          await file.readBuffer(AT - 5);
          await assert.rejects(file.readBe64(), (error) => {
            assertBlames(error as QemuFileError, fatal);
            return true;
          });
          await assert.rejects(file.close(), { code: fatal.code });
          assert.ok(errors.length <= 1);
          await Promise.all([sent, source.close()]);
        });
      });

      test(`a relay breaks off at ${JSON.stringify(fatal.fault)}`, async () => {
        await withoutLeaks(async () => {
          const [source, target] = [await make(), await farEnds.tcp()];
          const sent = source.send(BYTES);
          const receiving = target.receive();
          const from = new QemuFile(faultyOps(source.ops, fatal.fault));
          const result = await relay(from, new QemuFile(target.ops));
          assert.equal(result.complete, false);
          assert.equal(result.failure?.end, 'from');
          assertBlames(result.failure.error, fatal);
          const received = await receiving;
          assertBroken(received, target, 0, fatal.fault);
          await Promise.all([sent, source.close(), target.close()]);
        });
      });

      test(`a pipeline into a file rejects at ${JSON.stringify(fatal.fault)}`, async () => {
        await withoutLeaks(async () => {
          const [source, target] = [await make(), await farEnds.file()];
          const sent = source.send(BYTES);
          const from = new QemuFile(faultyOps(source.ops, fatal.fault));
          const to = new QemuFile(target.ops);
          await assert.rejects(pipeline(from, to), (error) => {
            assertBlames(error as QemuFileError, fatal);
            return true;
          });
          await Promise.allSettled([from.close(), to.close()]);
          assert.equal((await target.receive()).how, 'absent');
          await Promise.all([sent, source.close(), target.close()]);
        });
      });
    }

    test('an early end inside a value is EIO, and not zeros', async () => {
      await withoutLeaks(async () => {
        const source = await make();
        const sent = source.send(BYTES);
        const file = new QemuFile(faultyOps(source.ops, { on: 'getBuffer', at: AT, do: 'end' }));
        await file.readBuffer(AT - 5);
        await assert.rejects(file.readBe64(), { code: 'EIO', position: AT - 5 });
        await assert.rejects(file.close(), { code: 'EIO' });
        await Promise.all([sent, source.close()]);
      });
    });

    for (const fault of HARMLESS) {
      test(`a relay is complete in spite of ${JSON.stringify(fault)}`, async () => {
        await withoutLeaks(async () => {
          const [source, target] = [await make(), await make()];
          const run = await move(
            source,
            target,
            fault.on === 'getBuffer' ? [[fault], []] : [[], [fault]],
          );
          assert.equal(run.result.failure, null);
          assert.ok(run.received.bytes.equals(BYTES));
          assert.ok(run.answer.bytes.equals(ANSWER));
          assert.deepEqual([run.received.how, run.answer.how], ['end', 'end']);
        });
      });
    }
  });
}

describe('operations that move no bytes', LIMITS, () => {
  for (const on of ['getFd', 'setBlocking', 'getReturnPath'] as const) {
    test(`${on} fails in the call that needs it, and the file continues`, async () => {
      await withoutLeaks(async () => {
        const end = await farEnds.tcp();
        const ops = faultyOps(end.ops, { on, do: 'fail', code: 'EPERM' });
        const file = new QemuFile(ops);
        const call = { getFd: () => file.getFd(), setBlocking: () => file.setBlocking(true) };
        const { [on as 'getFd']: use = () => file.getReturnPath() } = call;
        assert.throws(use, { code: 'EPERM', operation: on });
        const receiving = end.receive();
        file.end(BYTES);
        assert.ok((await receiving).bytes.equals(BYTES));
        await end.send(ANSWER);
        await file.close();
        await end.close();
      });
    });
  }

  test('a half-close that fails is a failure of the relay, and breaks both ends', async () => {
    await withoutLeaks(async () => {
      const [source, target] = [await farEnds.memory(), await farEnds.memory()];
      const fault: Fault = { on: 'shutDown', do: 'fail', code: 'ENOTCONN' };
      const { result, received } = await move(source, target, [[], [fault]]);
      assert.equal(result.failure?.end, 'to');
      assertBlames(result.failure.error, { fault, code: 'ENOTCONN', operation: 'shutDown' });
      assert.equal(received.how, 'ECONNRESET');
    });
  });

  test('shutdown() answers the errno', async () => {
    await withoutLeaks(async () => {
      const end = await farEnds.tcp();
      const file = new QemuFile(faultyOps(end.ops, { on: 'shutDown', do: 'fail', code: 'EPERM' }));
      const receiving = end.receive();
      assert.equal(await file.shutdown(), -1);
      await assert.rejects(file.close(), { code: 'EIO' });
      await receiving;
      await end.close();
    });
  });
});

/** The result of a relay between two far ends. */
interface Run {
  result: RelayResult;
  from: FaultyOps;
  to: FaultyOps;
  received: Received;
  answer: Received;
}

/** Relays BYTES from one far end to another, which answers with ANSWER once it saw the end. */
async function move(
  source: FarEnd,
  target: FarEnd,
  [fromFaults, toFaults]: readonly [readonly Fault[], readonly Fault[]],
): Promise<Run> {
  const sent = source.send(BYTES);
  const receiving = target.receive();
  const answering = receiving.then(async (received) => {
    if (received.how === 'end') await target.send(ANSWER);
    else await target.close();
  });
  const hearing = source.receive();
  const from = faultyOps(source.ops, fromFaults);
  const to = faultyOps(target.ops, toFaults);
  const moving = relay(new QemuFile(from), new QemuFile(to, { digest: 'xxh64' }));
  const result = await within(moving, { what: 'the relay' });
  const [received, answer] = await Promise.all([receiving, hearing]);
  await Promise.all([sent, answering]);
  await Promise.all([source.close(), target.close()]);
  return { result, from, to, received, answer };
}

/** Return the expected output: the plans may have ended or changed it. */
function expectedOf(
  bytes: Buffer,
  ...plans: readonly [FaultyOps, 'getBuffer' | 'writevBuffer'][]
): Buffer {
  let expected = Buffer.from(bytes);
  for (const [{ happened }, on] of plans) {
    for (const fault of happened) {
      if (fault.on !== on) continue;
      const place = ('at' in fault ? fault.at : undefined) ?? 0;
      if (fault.do === 'corrupt') expected[place] = (expected[place] ?? 0) ^ (fault.xor ?? 255);
      if (fault.do === 'end') expected = expected.subarray(0, place);
    }
  }
  return expected;
}

describe('with any injected faults', LIMITS, () => {
  for (const name of ['memory', 'tcp', 'unix'] as const) {
    test(`a relay over ${name} is complete, or both its neighbours know that it is not`, async () => {
      await using leaks = await watchLeaks();
      const seed = fc.integer();
      const check = async (fromSeed: number, toSeed: number): Promise<void> => {
        const plans = [fromSeed, toSeed].map((each) => randomFaults(each, { bytes: 320_000 }));
        const [source, target] = [await farEnds[name](), await farEnds[name]()];
        const run = await move(source, target, plans as [Fault[], Fault[]]);
        const note = JSON.stringify({ plans, failure: run.result.failure?.error.message });
        const { result, from, to, received, answer } = run;
        const taken = expectedOf(BYTES, [from, 'getBuffer']);
        const there = expectedOf(BYTES, [from, 'getBuffer'], [to, 'writevBuffer']);
        const back = expectedOf(ANSWER, [to, 'getBuffer'], [from, 'writevBuffer']);
        if (result.complete) {
          assert.equal(result.forward.xxh64, xxh64(taken), note);
          assert.equal(xxh64(received.bytes), xxh64(there), note);
          assert.deepEqual([received.how, answer.how], ['end', 'end'], note);
          assert.equal(result.forward.bytes, received.bytes.length, note);
          assert.equal(xxh64(answer.bytes), xxh64(back), note);
        } else {
          assert.ok(result.failure?.error instanceof QemuFileError, note);
          const isEarly = to.happened.some(({ do: kind }) => kind === 'early');
          if (!isEarly && target.keeps)
            assert.ok(received.bytes.length >= result.forward.bytes, note);
        }
        assert.ok(received.bytes.equals(there.subarray(0, received.bytes.length)), note);
        assert.ok(answer.bytes.equals(back.subarray(0, answer.bytes.length)), note);
        // An end that all of it came before is a true one, whatever failed after it.
        if (name === 'unix') return;
        if (received.how === 'end') assert.equal(received.bytes.length, there.length, note);
        if (answer.how === 'end' && received.how === 'end' && !result.complete) return;
        if (answer.how === 'end') assert.equal(answer.bytes.length, back.length, note);
      };
      await fc.assert(fc.asyncProperty(seed, seed, check), {
        numRuns: 100,
        examples: [[0, -2053245430]],
      });
      await leaks.check();
    });
  }

  test('a relay with a check notices an early end at any byte, and lets no end through', async () => {
    await using leaks = await watchLeaks();
    const stream = workedExample();
    const check = async (incoming: AsyncIterable<Uint8Array>): Promise<void> => {
      const { faults } = await verifyStream(incoming);
      if (faults[0] !== undefined) throw faults[0];
    };
    for (let place = 1; place < stream.length; place += 37) {
      const [source, target] = [await farEnds.memory(), await farEnds.memory()];
      const sent = source.send(stream);
      const receiving = target.receive();
      const from = faultyOps(source.ops, { on: 'getBuffer', at: place, do: 'end' });
      const result = await relay(new QemuFile(from), new QemuFile(target.ops), { check });
      assert.equal(result.failure?.end, 'from', `cut at ${place}`);
      assert.equal((await receiving).how, 'ECONNRESET', `cut at ${place}`);
      await Promise.all([sent, source.close(), target.close()]);
    }
    await leaks.check();
  });
});
