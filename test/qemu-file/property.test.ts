import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { cutAt, pattern, turn } from '../helpers/bytes.ts';
import { readSome } from '../helpers/read-some.ts';
import { Feed, Sink, Source } from '../helpers/transports/backends.ts';

/** One thing that is put, as bytes made here and not by the code under test, and how it is got again. */
interface Item {
  kind: string;
  bytes: Buffer;
  put(file: QemuFile): void;
  /** Waits for it and checks it. */
  read(file: QemuFile): Promise<void>;
  /** Checks it, once it was filled. */
  get(file: QemuFile): void;
}

/** The integer kinds: suffix of the methods, and the bits and sign of what they take. */
const INTEGERS = [
  ['Byte', 'Byte', 8, false],
  ['Sbyte', 'Sbyte', 8, true],
  ['Be16', 'Be16', 16, false],
  ['Sbe16', 'Sbe16', 16, true],
  ['Be32', 'Be32', 32, false],
  ['Sbe32', 'Sbe32', 32, true],
  ['Be64', 'Be64', 53, false],
  ['Sbe64', 'Sbe64', 53, true],
  ['Be64', 'Be64Big', 64, false],
  ['Sbe64', 'Sbe64Big', 64, true],
] as const;

const integer: fc.Arbitrary<Item> = fc
  .constantFrom(...INTEGERS)
  .chain(([puts, gets, bits, signed]) => {
    const half = 1n << BigInt(bits - 1);
    // The numbers that are safe end one before 2^53 on either side.
    const range =
      bits === 53
        ? { min: signed ? 1n - 2n * half : 0n, max: 2n * half - 1n }
        : { min: signed ? -half : 0n, max: signed ? half - 1n : 2n * half - 1n };
    return fc.bigInt(range).map((value): Item => {
      const size = bits === 53 ? 8 : bits / 8;
      const digits = BigInt.asUintN(size * 8, value)
        .toString(16)
        .padStart(size * 2, '0');
      const given = bits === 64 ? value : Number(value);
      return {
        kind: `${puts} ${value}`,
        bytes: Buffer.from(digits, 'hex'),
        put: (file) => {
          if (puts === 'Be64' || puts === 'Sbe64') file[`put${puts}`](given);
          else file[`put${puts}`](Number(value));
        },
        read: async (file) => assert.equal(await file[`read${gets}`](), given),
        get: (file) => assert.equal(file[`get${gets}`](), given),
      };
    });
  });

/** Sizes around those at which something happens: copies, full staging areas. */
const size = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 40 }) },
  { weight: 2, arbitrary: fc.constantFrom(1023, 1024, 1025, 4096) },
  { weight: 1, arbitrary: fc.constantFrom(32_760, 32_767, 32_768, 32_769, 70_000) },
);

function blob(kind: string, put: (file: QemuFile, bytes: Buffer) => void): fc.Arbitrary<Item> {
  return fc.tuple(size, fc.nat(250)).map(([length, from]): Item => {
    const bytes = pattern(length, from);
    return {
      kind: `${kind} of ${length}`,
      bytes,
      put: (file) => put(file, bytes),
      read: async (file) => assert.equal(Buffer.compare(await file.readBuffer(length), bytes), 0),
      get: (file) => assert.equal(Buffer.compare(file.getBuffer(length), bytes), 0),
    };
  });
}

const text: fc.Arbitrary<Item> = fc
  .string({ unit: 'binary', maxLength: 60 })
  .filter((value) => Buffer.from(value).toString() === value && Buffer.byteLength(value) < 256)
  .map((value): Item => {
    const bytes = Buffer.from(value);
    return {
      kind: `string ${value}`,
      bytes: Buffer.concat([Buffer.of(bytes.length), bytes]),
      put: (file) => file.putCountedString(value),
      read: async (file) => assert.equal(await file.readCountedString(), value),
      get: (file) => assert.equal(file.getCountedString(), value),
    };
  });

const item: fc.Arbitrary<Item> = fc.oneof(
  { weight: 8, arbitrary: integer },
  { weight: 1, arbitrary: text },
  { weight: 2, arbitrary: blob('putBuffer', (file, bytes) => file.putBuffer(bytes)) },
  { weight: 3, arbitrary: blob('putBufferAsync', (file, bytes) => file.putBufferAsync(bytes)) },
  { weight: 2, arbitrary: blob('write', (file, bytes) => void file.write(bytes)) },
  {
    weight: 1,
    arbitrary: blob('putQemuFile', (file, bytes) => {
      const staged = new QemuFile({});
      const copied = Math.min(bytes.length, 5);
      staged.putBuffer(bytes.subarray(0, copied));
      staged.putBufferAsync(bytes.subarray(copied));
      assert.equal(file.putQemuFile(staged), bytes.length);
    }),
  },
);

/** Operations between puts. */
const pause = fc.constantFrom('none', 'none', 'none', 'flush', 'tick', 'cork');

const sizes = fc.record({
  stagingSize: fc.constantFrom(16, 64, 4096, 32_768),
  gatherEntries: fc.constantFrom(1, 2, 7, 64),
  autoFlush: fc.boolean(),
  maxBandwidth: fc.constantFrom(0, 0, 0, 2 ** 40),
});

test('any puts, over any backend, arrive as their bytes, in order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(item, pause), { maxLength: 120 }),
      sizes,
      fc.constantFrom('sync', 'async'),
      async (steps, options, answering) => {
        const sink = new Sink(answering);
        const file = new QemuFile(sink, options);
        let expected = 0;
        for (const [step, then] of steps) {
          step.put(file);
          expected += step.bytes.length;
          assert.equal(file.tellFast(), expected, step.kind);
          if (then === 'flush') void file.flush();
          if (then === 'tick') await turn();
          if (then === 'cork') {
            file.cork();
            await turn();
            file.uncork();
          }
        }
        assert.equal(await file.close(), 0);
        const bytes = Buffer.concat(steps.map(([step]) => step.bytes));
        assert.equal(Buffer.compare(sink.written, bytes), 0);
        assert.equal(sink.overlapped, false);
        let position = 0;
        for (const call of sink.calls) {
          assert.equal(call.position, position);
          position += call.bytes.length;
          assert.ok(call.bytes.length > 0);
          assert.ok(call.buffers.length <= options.gatherEntries);
          assert.ok(call.buffers.every((buffer) => buffer.length > 0));
        }
      },
    ),
    { numRuns: 250 },
  );
});

test('any bytes, in any chunks, are received as they were put, by gets and read() in turn', async () => {
  const how = fc.constantFrom('read', 'read', 'get', 'get', 'stream', 'skip', 'peek');
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(item, how), { maxLength: 60 }),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 40 }),
      fc.record({
        answering: fc.constantFrom('sync' as const, 'async' as const),
        hands: fc.boolean(),
      }),
      fc.constantFrom(16, 100, 4096, 65_536),
      fc.boolean(),
      async (steps, cuts, way, lookAheadSize, pipes) => {
        const bytes = Buffer.concat(steps.map(([step]) => step.bytes));
        const offsets = cuts.map((cut) => Math.floor(cut * bytes.length)).toSorted((a, b) => a - b);
        const file = new QemuFile(new Source(cutAt(bytes, offsets), way), { lookAheadSize });
        // The pipe does the rest of the steps.
        const typed = pipes ? Math.floor(steps.length / 2) : steps.length;
        let position = 0;
        for (const [step, by] of steps.slice(0, typed)) {
          const { length } = step.bytes;
          assert.equal(file.getPosition, position, step.kind);
          if (by === 'read') {
            await step.read(file);
          } else if (by === 'get') {
            await file.fill(length);
            step.get(file);
          } else if (by === 'stream') {
            assert.equal(Buffer.compare(await readAll(file, length), step.bytes), 0);
          } else if (by === 'skip') {
            await file.readSkip(length);
          } else {
            await file.fill(length);
            const seen = file.peekBuffer(Math.min(length, 32_768));
            assert.equal(Buffer.compare(seen, step.bytes.subarray(0, 32_768)), 0);
            const inPlace = file.getBufferInPlace(length);
            assert.equal(Buffer.compare(inPlace, step.bytes), 0);
          }
          position += length;
        }
        assert.equal(file.getPosition, position);
        const rest: Buffer[] = [];
        for await (const chunk of file) rest.push(chunk);
        assert.equal(Buffer.compare(Buffer.concat(rest), bytes.subarray(position)), 0);
        assert.equal(file.getPosition, bytes.length);
        assert.equal(file.error, null);
      },
    ),
    { numRuns: 250 },
  );

  /** Takes bytes with read(size), as a user of 'readable' does. */
  async function readAll(file: QemuFile, length: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = length; left > 0; left -= parts.at(-1)?.length ?? 0) {
      parts.push(await readSome(file, Math.min(left, 1000)));
    }
    return Buffer.concat(parts);
  }
});

test('any puts are read back through a second file while they are put', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(item, { minLength: 1, maxLength: 60 }),
      fc.constantFrom(100, 5000, 262_144),
      async (steps, highWaterMark) => {
        // A transport of one slot: a batch is handed over when the reader asks.
        let slot: Buffer | null = null;
        let ended = false;
        let wake: () => void = () => {};
        const changed = (): Promise<void> =>
          new Promise((resolve) => {
            wake = resolve;
          });
        const writer = new QemuFile(
          {
            async writevBuffer(buffers) {
              const bytes = Buffer.concat(buffers);
              slot = bytes;
              wake();
              while (slot !== null) await turn();
              return bytes.length;
            },
            close() {
              ended = true;
              wake();
            },
          },
          { highWaterMark },
        );
        const reader = new QemuFile({
          async getBuffer() {
            while (slot === null && !ended) await changed();
            const bytes = slot ?? Buffer.alloc(0);
            slot = null;
            return bytes;
          },
        });
        const writing = (async () => {
          for (const step of steps) {
            step.put(writer);
            if (writer.rateLimitExceeded()) await writer.drain();
          }
          await writer.close();
        })();
        for (const step of steps) await step.read(reader);
        assert.equal(await reader.atEnd(), true);
        await writing;
        assert.equal(reader.getPosition, writer.tellFast());
      },
    ),
    { numRuns: 60 },
  );
});

test('waiting readers receive the next bytes in turn, in any order of arrival and abort', async () => {
  type Step = { wait: number } | { give: number } | { abort: number } | { turn: true };
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 3, arbitrary: fc.record({ wait: fc.integer({ min: 0, max: 12 }) }) },
    { weight: 4, arbitrary: fc.record({ give: fc.integer({ min: 1, max: 9 }) }) },
    { weight: 1, arbitrary: fc.record({ abort: fc.nat(20) }) },
    { weight: 1, arbitrary: fc.constant({ turn: true } as const) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const feed = new Feed();
      const file = new QemuFile(feed);
      const waits: { size: number; controller: AbortController; got: Promise<Buffer | null> }[] =
        [];
      let given = 0;
      const give = (length: number): void => {
        feed.give(pattern(length, given));
        given += length;
      };
      for (const doing of steps) {
        if ('wait' in doing) {
          const controller = new AbortController();
          const { signal } = controller;
          const got = file.readBuffer(doing.wait, { signal }).catch(() => null);
          waits.push({ size: doing.wait, controller, got });
        } else if ('give' in doing) {
          if (feed.waiting) give(doing.give);
        } else if ('abort' in doing) {
          waits[doing.abort]?.controller.abort();
        } else {
          await turn();
        }
      }
      await turn();
      while (feed.waiting) {
        give(10);
        await turn();
      }
      let position = 0;
      for (const { size, controller, got } of waits) {
        const bytes = await got;
        if (bytes === null) {
          assert.equal(controller.signal.aborted, true);
          continue;
        }
        assert.equal(Buffer.compare(bytes, pattern(size, position)), 0);
        position += size;
      }
      assert.equal(file.getPosition, position);
      assert.equal(file.error, null);
    }),
    { numRuns: 200 },
  );
});
