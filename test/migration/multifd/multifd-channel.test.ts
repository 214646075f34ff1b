import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import zlib from 'node:zlib';
import type { RamBlock } from '../../../lib/migration/format/events.ts';
import type { StreamInput } from '../../../lib/migration/format/stream-input.ts';
import {
  MultifdChannel,
  type MultifdDeviceState,
} from '../../../lib/migration/multifd/multifd-channel.ts';
import type { MultifdTable } from '../../../lib/migration/multifd/multifd-packet.ts';
import type { PageDispatch } from '../../../lib/migration/ram/page-dispatch.ts';
import { hex, pattern } from '../../helpers/bytes.ts';
import { assertFault, faultOf, inputOver, readSplit } from '../../helpers/reading/split-input.ts';
import { corpus, corpusBytes, corpusFacts } from '../../helpers/streams/corpus.ts';
import { deflateSlices } from '../../helpers/streams/payload-slices.ts';
import {
  type MultifdFields,
  multifdDeviceState,
  multifdInitial,
  multifdPacket,
  stream,
} from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
const HEADER = 1344;
const SYNC = 1;

/** RAM that logs its pages as they come. */
class Ram implements MultifdTable {
  readonly log: string[] = [];
  readonly blocks: RamBlock[];

  constructor(...blocks: readonly (readonly [name: string, pages: number])[]) {
    this.blocks = blocks.map(([name, pages], index) => ({
      index,
      name,
      usedLength: pages * PAGE,
      hostPageSize: null,
      address: null,
      pages: { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 },
    }));
  }

  readonly blockTable: MultifdTable['blockTable'] = {
    pageSize: PAGE,
    find: (name) => this.blocks.find((block) => block.name === name),
  };

  readonly #logPage = (block: RamBlock, offset: number, bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length; at += PAGE) {
      const page = bytes.subarray(at, at + PAGE);
      const first = page[0] as number;
      const isPattern = Buffer.compare(page, pattern(PAGE, first)) === 0;
      this.log.push(`${block.name} ${(offset + at) / PAGE} ${isPattern ? first : 'garbage'}`);
    }
  };

  readonly dispatch: MultifdTable['dispatch'] = {
    page: this.#logPage,
    zero: (block, offset, count) => {
      this.log.push(`${block.name} ${offset / PAGE} zero × ${count}`);
    },
  };
}

function ramOf(): Ram {
  return new Ram(['pc.ram', 64], ['vga.vram', 4]);
}

/** Pages of a block; a page's content is the pattern from its number on. */
function pages(block: string, numbers: readonly number[], more: MultifdFields = {}): Buffer {
  const normal = numbers.map((number) => number * PAGE);
  return multifdPacket({ block, normal, payload: contents(numbers), ...more });
}

function contents(numbers: readonly number[]): Buffer {
  return Buffer.concat(numbers.map((number) => pattern(PAGE, number)));
}

const sync = multifdPacket({ flags: SYNC, room: 0 });

interface Reading {
  readonly log: readonly string[];
  readonly rounds: number;
  readonly packets: number;
}

/** Reads a channel on its own, as if the main channel were always ready. */
async function readAlone(
  input: StreamInput,
  ram: Ram = ramOf(),
  onDeviceState?: (state: MultifdDeviceState) => void,
): Promise<Reading> {
  const channel = new MultifdChannel(input, 1, ram, onDeviceState);
  try {
    await channel.open();
    while ((await channel.round()) === 'sync') ram.log.push('sync');
    const { packets, syncs } = channel.statistics;
    return { log: ram.log, rounds: syncs, packets };
  } finally {
    channel.stop();
  }
}

function logOf(...parts: readonly Uint8Array[]): Promise<readonly string[]> {
  return readAlone(inputOver(stream(multifdInitial(0), ...parts))).then(({ log }) => log);
}

/** Places that matter: all of the first bytes, those around each given one, and some in between. */
function places(bytes: Uint8Array, ...edges: readonly number[]): number[] {
  const all = new Set<number>(Array.from({ length: 80 }, (_, at) => at));
  for (const edge of edges) for (let at = edge - 2; at <= edge + 13; at++) all.add(at);
  for (let at = 0; at < bytes.length; at += 997) all.add(at);
  return [...all].filter((at) => at < bytes.length).sort((a, b) => a - b);
}

describe('MultifdChannel', () => {
  const whole = stream(
    multifdInitial(3),
    pages('pc.ram', [5, 6, 1], { zero: [8, 9, 11].map((number) => number * PAGE) }),
    sync,
    pages('vga.vram', [3]),
    sync,
  );
  const second = 64 + HEADER + 3 * PAGE;
  const edges = [
    64,
    64 + HEADER,
    64 + HEADER + PAGE,
    second,
    second + HEADER,
    whole.length - HEADER,
  ];

  it('delivers pages and pages of zeros, at every split', async () => {
    const read = await readSplit(whole, (input) => readAlone(input), places(whole, ...edges));
    assert.deepEqual(read, {
      log: [
        'pc.ram 5 5',
        'pc.ram 6 6',
        'pc.ram 1 1',
        'pc.ram 8 zero × 2',
        'pc.ram 11 zero × 1',
        'sync',
        'vga.vram 3 3',
        'sync',
      ],
      rounds: 2,
      packets: 4,
    });
  });

  it('counts pages for their block and for itself', async () => {
    const ram = ramOf();
    const channel = new MultifdChannel(inputOver(whole), 1, ram, undefined);
    await channel.open();
    while ((await channel.round()) === 'sync');
    assert.deepEqual(
      ram.blocks.map(({ pages }) => [pages.multifd, pages.zero]),
      [
        [3, 3],
        [1, 0],
      ],
    );
    assert.deepEqual(channel.statistics, {
      id: 3,
      packets: 4,
      syncs: 2,
      normalPages: 4,
      zeroPages: 3,
      deviceStates: 0,
    });
  });

  it('hands over plain pages without copying them', async () => {
    const bytes = stream(multifdInitial(0), pages('pc.ram', [1, 2]), sync);
    const buffers = new Set<unknown>();
    const page: PageDispatch['page'] = (_block, _offset, bytes) => buffers.add(bytes.buffer);
    const table = { ...ramOf(), dispatch: { page, zero: null } };
    const channel = new MultifdChannel(inputOver(bytes), 1, table, undefined);
    await channel.open();
    await channel.round();
    assert.equal(buffers.size, 1);
    assert.equal(([...buffers][0] as ArrayBuffer).byteLength, bytes.buffer.byteLength);
  });

  it('continues when QEMU 7.2 sets SYNC on a packet with pages and sends an empty one after it', async () => {
    const left = {
      normal: [1, 2],
      normalPages: 0,
      payloadSize: 99,
      block: Buffer.alloc(256, 0xff),
    };
    const log = await logOf(
      multifdPacket({ flags: SYNC, ...left }),
      pages('pc.ram', [1], { flags: SYNC, number: 4 }),
      multifdPacket({ ...left, number: 4 }),
      pages('pc.ram', [2], { flags: SYNC }),
      multifdPacket(left),
    );
    assert.deepEqual(log, ['sync', 'pc.ram 1 1', 'sync', 'pc.ram 2 2', 'sync']);
  });

  it('decodes one zlib stream across packets, with packets between that say no compression', async () => {
    const [first, second] = await deflateSlices([contents([1, 2, 9]), contents([2])]);
    const log = await logOf(
      pages('pc.ram', [1, 2, 9], { flags: 2, payload: first }),
      sync,
      multifdPacket({}),
      pages('pc.ram', [2], { flags: 3, payload: second }),
    );
    assert.deepEqual(log, ['pc.ram 1 1', 'pc.ram 2 2', 'pc.ram 9 9', 'sync', 'pc.ram 2 2', 'sync']);
  });

  it('decodes one zstd frame across packets', async () => {
    // The frame's header, a window of 2 MiB, and a block of a page as it is.
    const block = (number: number) => stream('008000', pattern(PAGE, number));
    const log = await logOf(
      pages('pc.ram', [1], { flags: 4, payload: stream('28b52ffd 00 58', block(1)) }),
      pages('pc.ram', [2, 3], { flags: 4, payload: stream(block(2), block(3)) }),
      sync,
    );
    assert.deepEqual(log, ['pc.ram 1 1', 'pc.ram 2 2', 'pc.ram 3 3', 'sync']);
  });

  it('delivers decoded pages that follow each other as one', async () => {
    const lengths: number[] = [];
    const page: PageDispatch['page'] = (_block, at, { length }) => lengths.push(at, length);
    const table = { ...ramOf(), dispatch: { page, zero: null } };
    const numbers = [1, 2, 4, 3];
    const payload = zlib.deflateSync(contents(numbers), {
      finishFlush: zlib.constants.Z_SYNC_FLUSH,
    });
    const bytes = stream(multifdInitial(0), pages('pc.ram', numbers, { flags: 3, payload }));
    const channel = new MultifdChannel(inputOver(bytes), 1, table, undefined);
    await channel.open();
    assert.equal(await channel.round(), 'sync');
    channel.stop();
    assert.deepEqual(lengths, [PAGE, 2 * PAGE, 4 * PAGE, PAGE, 3 * PAGE, PAGE]);
  });

  describe('with device state', () => {
    const state = pattern(300);
    const bytes = stream(
      multifdInitial(1),
      sync,
      multifdDeviceState('0000:00:03.0/vfio', 2, state),
    );

    it('hands it over', async () => {
      const states: MultifdDeviceState[] = [];
      await readSplit(
        bytes,
        async (input) => {
          states.length = 0;
          await readAlone(input, ramOf(), (given) => states.push(given));
          return [...states];
        },
        places(bytes, 64 + HEADER, 64 + HEADER + 276),
      );
      const expected = { channelId: 1, name: '0000:00:03.0/vfio', instanceId: 2, bytes: state };
      assert.deepEqual(states, [expected]);
    });

    it('drops it without a consumer', async () => {
      const { packets } = await readAlone(inputOver(bytes));
      assert.equal(packets, 2);
    });

    it('does not wait for the rest of more than there is', async () => {
      const cut = Buffer.from(bytes.subarray(0, -1));
      const reason =
        /^multifd channel 1, packet 2: the channel ends inside device state: 299 of 300/;
      await assertFault(readAlone(inputOver(cut)), 'truncated', cut.length - 299, reason);
    });
  });

  it('reports the place at which it ends early', async () => {
    for (const place of places(whole, ...edges)) {
      // Between packets, when no pages wait for a SYNC, it may end.
      if (place === 64 || place === second + HEADER) continue;
      const error = await faultOf(readAlone(inputOver(whole.subarray(0, place))));
      assert.equal(error.fault, 'truncated', `${place}: ${error.message}`);
      const where = place < 64 ? /^multifd connection 1: / : /^multifd channel 3, packet [1-4]: /;
      assert.match(error.reason, where);
      assert.match(error.reason, /the channel ends (inside|after)/);
      assert.ok((error.position ?? -1) <= place, error.message);
    }
  });

  it('refuses to end with pages that no SYNC follows', async () => {
    const bytes = stream(multifdInitial(0), sync, pages('pc.ram', [1, 2]));
    const reason = /^multifd channel 0, packet 2: the channel ends after 2 pages without a SYNC$/;
    await assertFault(readAlone(inputOver(bytes)), 'truncated', bytes.length, reason);
  });

  const FAULTS: readonly (readonly [string, readonly Uint8Array[], number, RegExp])[] = [
    ['no packet', [hex('5145564d 00000003 00000000')], 0, /, packet 1: it begins with 0x5145564d/],
    [
      'a fault in a header',
      [pages('pc.ram', [64])],
      320,
      /, packet 1: offset 0x40000 in RAM block .* is not that of a page/,
    ],
    [
      'two methods of compression',
      [pages('pc.ram', [1]), pages('pc.ram', [2], { flags: 2 })],
      HEADER + PAGE,
      /, packet 2: its compression is zlib, that of earlier packets is none$/,
    ],
    [
      'damaged compressed pages',
      [pages('pc.ram', [1], { flags: 2, payload: pattern(50, 3) })],
      HEADER,
      /, packet 1: its zlib payload cannot be decoded: incorrect header check$/,
    ],
    [
      'a bomb',
      [pages('pc.ram', [1], { flags: 2, payload: zlib.deflateSync(Buffer.alloc(2 ** 26)) })],
      HEADER,
      /, packet 1: its zlib payload cannot be decoded: it decodes to more than the 4096 bytes of its pages/,
    ],
  ];
  for (const [what, parts, at, reason] of FAULTS) {
    it(`refuses ${what}`, async () => {
      const input = inputOver(stream(multifdInitial(0), ...parts, sync));
      await assertFault(readAlone(input), 'corrupt', 64 + at, reason);
    });
  }

  for (const name of ['multifd-none', 'multifd-zlib', 'q10-multifd-none', 'q10-multifd-zstd']) {
    const skip = corpus(`${name}.ch0.mig.gz`) === undefined;
    it(`reads the recording ${name} as it is known to be`, { skip }, async () => {
      const facts = corpusFacts(name);
      const ram = new Ram(
        ...facts.ram_blocks.map((block) => [block.name, block.used / PAGE] as const),
      );
      for (const number of [0, 1]) {
        const bytes = corpusBytes(`${name}.ch${number}.mig.gz`);
        const table = { ...ram, dispatch: { page: null, zero: null } };
        const channel = new MultifdChannel(inputOver(bytes), 1, table, undefined);
        await channel.open();
        while ((await channel.round()) === 'sync');
        channel.stop();
        const { id, packets, syncs, normalPages, zeroPages } = channel.statistics;
        assert.equal(id, number);
        const known = facts.multifd_packets?.[`multifd channel ${number}`];
        const counted = { packets, sync: syncs, normal_pages: normalPages, zero_pages: zeroPages };
        if (known !== undefined) assert.deepEqual(counted, known);
        else assert.equal(syncs, facts.analyze_migration.records.eos);
      }
    });
  }
});
