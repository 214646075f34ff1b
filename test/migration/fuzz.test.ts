// Streams by chance: well-formed ones must be read as they are, damaged ones must end in faults.
//
// FUZZ_RUNS is the number of streams of each kind, FUZZ_SEED repeats a run: a failure says its seed.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { deflateSync } from 'node:zlib';
import fc from 'fast-check';
import type { MigrationEvent } from '../../lib/migration/format/events.ts';
import { recordings, unpack } from '../fixtures/recording.ts';
import { turn } from '../helpers/bytes.ts';
import { readStream } from '../helpers/reading/read-stream.ts';
import { readHostile } from '../helpers/streams/hostile.ts';
import { below, chanceOf, mutate, oneOf, partAtRandom } from '../helpers/streams/mutate.ts';
import { smallStreams } from '../helpers/streams/small-streams.ts';
import {
  be16,
  be32,
  blockList,
  command,
  configuration,
  counted,
  end,
  eos,
  FLAG,
  header,
  page,
  piece,
  section,
  stream,
  subsection,
  vmDescription,
  word,
  zeroPage,
} from '../helpers/streams/stream-bytes.ts';

const RUNS = Number(process.env.FUZZ_RUNS ?? 300);
const SEED = Number(process.env.FUZZ_SEED ?? below(2 ** 31, Math.random));

/** Streams of recordings are larger than those made by hand. */
const RUNS_OF_RECORDINGS: number = Math.ceil(RUNS / 5);
const MAX_RECORDING = 400_000;

/** Bytes by which the memory of the process may grow, whatever is read. */
const MAX_GROWTH = 512 * 1_048_576;

const PAGE = 1024;

interface Record {
  readonly block: number;
  readonly page: number;
  readonly kind: 'zero' | 'page' | 'compressed' | 'xbzrle';
  readonly fill: number;
  /** Whether it begins another section. */
  readonly parted: boolean;
}

interface Device {
  readonly value: number;
  readonly array: readonly number[];
  readonly extra: number | null;
}

interface Model {
  readonly machine: string;
  /** Pages of each block. */
  readonly blocks: readonly number[];
  readonly records: readonly Record[];
  readonly devices: readonly Device[];
  readonly pings: readonly number[];
  readonly hasDescription: boolean;
}

const records: fc.Arbitrary<Record[]> = fc.array(
  fc.record({
    block: fc.nat(2),
    page: fc.nat(7),
    kind: fc.constantFrom('zero', 'page', 'compressed', 'xbzrle'),
    fill: fc.integer({ min: 1, max: 255 }),
    parted: fc.boolean(),
  }),
  { maxLength: 24 },
);

const uint32 = fc.integer({ min: 0, max: 0xffff_ffff });

const models: fc.Arbitrary<Model> = fc.record({
  machine: fc.stringMatching(/^[a-z0-9.-]{0,20}$/),
  blocks: fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 3 }),
  records,
  devices: fc.array(
    fc.record({
      value: uint32,
      array: fc.array(fc.nat(0xffff), { minLength: 2, maxLength: 5 }),
      extra: fc.option(fc.nat(255)),
    }),
    { maxLength: 4 },
  ),
  pings: fc.array(uint32, { maxLength: 3 }),
  hasDescription: fc.boolean(),
});

const nameOf = (block: number): string => `block ${block}`;

/** The bytes of a model, and what RAM holds in the end. */
function streamOf(model: Model): { bytes: Buffer; ram: Map<string, Buffer> } {
  const ram = new Map(
    model.blocks.map((pages, index) => [nameOf(index), Buffer.alloc(pages * PAGE)]),
  );
  const parts: Buffer[][] = [[]];
  let last: string | null = null;
  for (const { block, page: number, kind, fill, parted } of model.records) {
    const index = block % model.blocks.length;
    const name = nameOf(index);
    const offset = (number % (model.blocks[index] as number)) * PAGE;
    if (parted) parts.push([]);
    const target = ram.get(name) as Buffer;
    const record = recordOf(name === last ? null : name, offset, kind, fill);
    (parts.at(-1) as Buffer[]).push(record);
    last = name;
    if (kind === 'zero') target.fill(0, offset, offset + PAGE);
    else if (kind === 'xbzrle') target.fill(fill, offset + 100, offset + 104);
    else target.fill(fill, offset, offset + PAGE);
  }
  const list = blockList(
    ...model.blocks.map((pages, index) => [nameOf(index), pages * PAGE] as const),
  );
  const bytes = stream(
    header,
    configuration(model.machine, subsection('configuration/target-page-bits', 1, be32(10))),
    section('start', 2, ['ram', 0, 4], list, eos),
    ...model.pings.map((value) => command(2, be32(value))),
    ...parts.map((part) => piece('part', 2, ...part, eos)),
    piece('end', 2, eos),
    ...model.devices.map(({ value, array, extra }, index) =>
      section(
        'full',
        10 + index,
        [`dev${index}`, 0, 1],
        be32(value),
        ...array.map(be16),
        extra === null ? '' : subsection(`dev${index}/extra`, 1, Uint8Array.of(extra)),
      ),
    ),
    end,
    model.hasDescription ? vmDescription({ page_size: PAGE, devices: descriptions(model) }) : '',
  );
  return { bytes, ram };
}

function recordOf(name: string | null, offset: number, kind: Record['kind'], fill: number): Buffer {
  if (kind === 'zero') return zeroPage(name, offset);
  const full = Buffer.alloc(PAGE, fill);
  if (kind === 'page') return page(name, offset, full);
  if (kind === 'xbzrle') {
    const encoded = stream('64 04', Buffer.alloc(4, fill));
    return stream(word(name, offset, FLAG.xbzrle), '01', be16(encoded.length), encoded);
  }
  const packed = deflateSync(full);
  return stream(word(name, offset, FLAG.compressed), be32(packed.length), packed);
}

function descriptions({ devices }: Model): object[] {
  return devices.map(({ array, extra }, index) => ({
    name: `dev${index}`,
    instance_id: 0,
    vmsd_name: `dev${index}`,
    version: 1,
    fields: [
      { name: 'value', type: 'uint32', size: 4 },
      { name: 'array', array_len: array.length, type: 'uint16', size: 2 },
    ],
    ...(extra === null
      ? {}
      : {
          subsections: [
            {
              vmsd_name: `dev${index}/extra`,
              version: 1,
              fields: [{ name: 'e', type: 'uint8', size: 1 }],
            },
          ],
        }),
  }));
}

function statesOf(events: readonly MigrationEvent[]): unknown[] {
  return events
    .filter((event) => event.type === 'device')
    .map(({ state }) => JSON.parse(JSON.stringify(state)) as unknown);
}

function expectedStates({ devices, hasDescription }: Model): unknown[] {
  return devices.map(({ value, array, extra }, index) => {
    if (!hasDescription) return null;
    const more = extra === null ? {} : { [`dev${index}/extra`]: { e: extra } };
    return { value, array, ...more };
  });
}

/** The values that reproduce a failure. */
async function withSeed(seed: number, what: string, run: () => Promise<unknown>): Promise<void> {
  try {
    await run();
  } catch (error) {
    throw new Error(`FUZZ_SEED=${SEED}, ${what}, seed ${seed}`, { cause: error });
  }
}

describe(`streams by chance (FUZZ_SEED=${SEED})`, () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  let memory = 0;
  before(() => {
    process.on('unhandledRejection', note);
    memory = process.memoryUsage.rss();
  });
  after(() => {
    process.off('unhandledRejection', note);
    assert.deepEqual(unhandled, []);
    assert.ok(process.memoryUsage.rss() - memory < MAX_GROWTH);
  });

  const parameters = { numRuns: RUNS, seed: SEED };

  test('that are well formed are read correctly, in any chunks', async () => {
    await fc.assert(
      fc.asyncProperty(models, fc.integer(), async (model, seed) => {
        await turn();
        const { bytes, ram: wanted } = streamOf(model);
        const ram = new Map(
          model.blocks.map((pages, index) => [nameOf(index), Buffer.alloc(pages * PAGE)]),
        );
        const chunks = partAtRandom(bytes, 8, chanceOf(seed)).filter(({ length }) => length > 0);
        const { events } = await readStream(chunks, {
          pages: {
            page: (block, offset, data) => void ram.get(block.name)?.set(data, offset),
            zero: (block, offset, count) =>
              void ram.get(block.name)?.fill(0, offset, offset + count * PAGE),
            // All are alike: 4 bytes from 100 on.
            xbzrle: (block, offset, encoded) =>
              void ram.get(block.name)?.set(encoded.subarray(2), offset + 100),
          },
        });
        assert.deepEqual(ram, wanted);
        assert.deepEqual(statesOf(events), expectedStates(model));
        const pings = events.flatMap((event) =>
          event.type === 'command' && event.command.name === 'PING' ? [event.command.value] : [],
        );
        assert.deepEqual(pings, model.pings);
      }),
      parameters,
    );
  });

  test('that are damaged end in faults', async () => {
    await fc.assert(
      fc.asyncProperty(models, fc.integer(), fc.boolean(), async (model, seed, all) => {
        const chance = chanceOf(seed);
        await readHostile({ main: mutate(streamOf(model).bytes, chance) }, chance, { all });
      }),
      parameters,
    );
  });

  test('that are of any bytes end in faults', async () => {
    const anything = fc.uint8Array({ maxLength: 200 });
    await fc.assert(
      fc.asyncProperty(anything, async (bytes) => {
        assert.ok((await readHostile({ main: bytes })).length > 0);
        await readHostile({ main: stream(header, configuration('none'), bytes) });
        const start = stream('01', be32(2), counted('ram'), be32(0), be32(4));
        await readHostile({ main: stream(header, configuration('none'), start, bytes) });
      }),
      parameters,
    );
  });

  test('that are damaged small ones of every kind end in faults', async () => {
    const streams = smallStreams().filter(({ name }) => name !== 'multifd none');
    for (let run = 0; run < RUNS; run++) {
      const seed = (SEED + run) >>> 0;
      const chance = chanceOf(seed);
      const { name, main, channels } = oneOf(streams, chance);
      const which = below(channels.length + 1, chance);
      const [first, ...others] = [main, ...channels].map(({ bytes, free }, index) => {
        const places = Array.from(free.keys()).filter((at) => free[at] !== 0xff);
        return index === which ? mutate(bytes, chance, places) : bytes;
      });
      const all = chance() < 0.5;
      await withSeed(seed, name, () =>
        readHostile({ main: first as Buffer, channels: others }, chance, { all }),
      );
    }
  });

  test('that are damaged recordings end in faults', async () => {
    const streams = recordings()
      .map(({ name, files }) => ({
        name,
        bytes: files
          .filter(({ kind }) => ['main', 'channel', 'preempt'].includes(kind))
          .map(unpack),
      }))
      .filter(({ bytes }) => bytes.length > 0)
      .filter(({ bytes }) => bytes.every(({ length }) => length <= MAX_RECORDING));
    assert.ok(streams.length > 0);
    for (let run = 0; run < RUNS_OF_RECORDINGS; run++) {
      const seed = (SEED + run) >>> 0;
      const chance = chanceOf(seed);
      const { name, bytes } = oneOf(streams, chance);
      const which = below(bytes.length, chance);
      const [main, ...channels] = bytes.map((part, index) =>
        index === which ? mutate(part, chance) : part,
      );
      await withSeed(seed, name, () => readHostile({ main: main as Buffer, channels }, chance));
    }
  });
});
