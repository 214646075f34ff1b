import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, it } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import type { RamBlock } from '../../../lib/migration/format/events.ts';
import { StreamInput } from '../../../lib/migration/format/stream-input.ts';
import {
  MultifdChannels,
  type MultifdTable,
} from '../../../lib/migration/multifd/multifd-channels.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { hex, turn } from '../../helpers/bytes.ts';
import { assertFault, faultOf, inputOver } from '../../helpers/reading/split-input.ts';
import {
  multifdDeviceState,
  multifdInitial,
  multifdPacket,
  stream,
} from '../../helpers/streams/stream-bytes.ts';
import { Feed } from '../../helpers/transports/backends.ts';

const PAGE = 4096;
const HEADER = 1344;

const sync = multifdPacket({ flags: 1, room: 0 });
const empty = multifdPacket({});

/** A packet of one page of zeros, the one of a number. */
function zero(number: number): Buffer {
  return multifdPacket({ block: 'pc.ram', zero: [number * PAGE] });
}

/** Logs the numbers of the pages that come. */
class Log implements MultifdTable {
  readonly entries: number[] = [];
  readonly #block: RamBlock = {
    index: 0,
    name: 'pc.ram',
    usedLength: 100 * PAGE,
    hostPageSize: null,
    address: null,
    pages: { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 },
  };

  readonly blockTable: MultifdTable['blockTable'] = {
    pageSize: PAGE,
    find: (name) => (name === 'pc.ram' ? this.#block : undefined),
  };

  readonly dispatch: MultifdTable['dispatch'] = {
    page: null,
    zero: (_block, offset) => void this.entries.push(offset / PAGE),
  };
}

/** A recorded channel. */
function recorded(id: number, ...packets: readonly Uint8Array[]): StreamInput {
  return inputOver(stream(multifdInitial(id), ...packets));
}

/** A channel to which the test sends. */
class Live {
  readonly feed = new Feed();
  readonly input: StreamInput = new StreamInput(new QemuFile(this.feed));

  /** Sends bytes, once they are wanted, and lets what they bring about happen. */
  async send(...packets: readonly Uint8Array[]): Promise<void> {
    await quiet();
    this.feed.give(stream(...packets));
    await quiet();
  }

  /** Whether the channel is being read. */
  get isWanted(): boolean {
    return this.feed.waiting;
  }
}

/** Lets all that can happen without more bytes happen. */
async function quiet(): Promise<void> {
  for (let i = 0; i < 5; i++) await turn();
}

/** How a promise stands. */
function watched(promise: Promise<void>): { state: 'waits' | 'done' | Error } {
  const watch: { state: 'waits' | 'done' | Error } = { state: 'waits' };
  promise.then(
    () => {
      watch.state = 'done';
    },
    (error: Error) => {
      watch.state = error;
    },
  );
  return watch;
}

describe('MultifdChannels', () => {
  it('reads recorded channels round by round, in any order of channels', async () => {
    const log = new Log();
    const channels = new MultifdChannels([
      recorded(1, zero(10), zero(11), sync, sync, zero(12), sync),
      recorded(0, sync, zero(20), sync, zero(21), sync, empty),
    ]);
    channels.start(log);
    // They go as far as they may: into the round that begins with the word.
    for (const pages of [[10, 11], [20], [12, 21], []]) {
      await quiet();
      assert.deepEqual(log.entries.splice(0).sort(), pages);
      if (pages.length > 0) await channels.sync();
    }
    await channels.finish();
    assert.deepEqual(
      channels.statistics.map(({ id, packets, syncs, zeroPages }) => [
        id,
        packets,
        syncs,
        zeroPages,
      ]),
      [
        [1, 6, 3, 3],
        [0, 6, 3, 2],
      ],
    );
    assert.equal(channels.uuid, '00000000-0000-0000-0000-000000000000');
  });

  it('reads nothing before it knows the blocks', async () => {
    const live = new Live();
    const channels = new MultifdChannels([live.input]);
    await quiet();
    assert.equal(live.feed.asked, 0);
    channels.start(new Log());
    assert.equal(live.feed.asked, 1);
    channels.stop(new Error('enough'));
  });

  it('stops a channel at its SYNC until all channels and main have reached it', async () => {
    const log = new Log();
    const [fast, slow] = [new Live(), new Live()];
    const channels = new MultifdChannels([fast.input, slow.input]);
    channels.start(log);
    await fast.send(multifdInitial(0), zero(1), sync, zero(2));
    await slow.send(multifdInitial(1));
    assert.deepEqual(log.entries, [1]);

    const word = watched(channels.sync());
    await quiet();
    assert.equal(word.state, 'waits');
    assert.equal(fast.isWanted, false);
    await slow.send(zero(3), sync);
    assert.equal(word.state, 'done');
    assert.deepEqual(log.entries, [1, 3, 2]);
    assert.equal(fast.isWanted, true);
    channels.stop(new Error('enough'));
  });

  it('keeps channels at their SYNC until main has its word', async () => {
    const log = new Log();
    const channels = new MultifdChannels([
      recorded(0, zero(1), sync, zero(2), sync),
      recorded(1, zero(3), sync, zero(4), sync),
    ]);
    channels.start(log);
    await quiet();
    assert.deepEqual([...log.entries].sort(), [1, 3]);
    await channels.sync();
    await quiet();
    assert.deepEqual([...log.entries].sort(), [1, 2, 3, 4]);
    await channels.sync();
    await channels.finish();
  });

  it('waits at the end for channels that still send empty packets', async () => {
    const live = new Live();
    const channels = new MultifdChannels([live.input]);
    channels.start(new Log());
    await live.send(multifdInitial(0), sync);
    await channels.sync();
    const finish = watched(channels.finish());
    await live.send(empty);
    assert.equal(finish.state, 'waits');
    await live.send();
    assert.equal(finish.state, 'done');
  });

  it('hands over device state after the last round', async () => {
    const names: string[] = [];
    const packet = multifdDeviceState('0000:00:03.0/vfio', 0, hex('0102'));
    const channels = new MultifdChannels([recorded(0, sync, packet)], {
      onDeviceState: ({ name, bytes }) => names.push(`${name} ${bytes.toString('hex')}`),
    });
    channels.start(new Log());
    await channels.sync();
    await channels.finish();
    assert.deepEqual(names, ['0000:00:03.0/vfio 0102']);
  });

  it('says which channel ended before the SYNC that main waits for, though others are alive', async () => {
    const live = new Live();
    const channels = new MultifdChannels([live.input, recorded(1, sync, empty)]);
    channels.start(new Log());
    await live.send(multifdInitial(0), sync);
    await channels.sync();
    const reason = /^multifd channel 1, packet 2: the channel ends before the SYNC that the main/;
    await assertFault(channels.sync(), 'truncated', 64 + 2 * HEADER, reason);
  });

  it('refuses to finish with a SYNC that main has no word for, though others are alive', async () => {
    const live = new Live();
    const channels = new MultifdChannels([live.input, recorded(1, sync, sync)]);
    channels.start(new Log());
    await live.send(multifdInitial(0), sync);
    await channels.sync();
    const reason =
      /^multifd channel 1, packet 2: a SYNC without a MULTIFD_FLUSH or EOS of the main channel$/;
    await assertFault(channels.finish(), 'corrupt', 64 + HEADER, reason);
  });

  it('refuses to finish inside a packet', async () => {
    const channels = new MultifdChannels([recorded(0, sync, empty.subarray(0, 100))]);
    channels.start(new Log());
    await channels.sync();
    const reason = /^multifd channel 0, packet 2: the channel ends inside its header: 100 of 1344/;
    await assertFault(channels.finish(), 'truncated', 64 + HEADER, reason);
  });

  it('refuses to finish when no blocks were ever listed', async () => {
    const channels = new MultifdChannels([recorded(0)]);
    await assertFault(
      channels.finish(),
      'corrupt',
      0,
      /^multifd channels without a list of RAM blocks on the main channel$/,
    );
  });

  const [one, other] = ['11'.repeat(16), '22'.repeat(16)];
  const INITIALS: readonly (readonly [string, Uint8Array, Uint8Array, RegExp])[] = [
    ['a number twice', multifdInitial(0), multifdInitial(0), /^multifd channel 0: another channel/],
    [
      'a number too great',
      multifdInitial(0),
      multifdInitial(2),
      /^multifd channel 2: its number is/,
    ],
    [
      'another UUID',
      multifdInitial(0, one),
      multifdInitial(1, other),
      /: it belongs to another mig/,
    ],
  ];
  for (const [what, first, second, reason] of INITIALS) {
    it(`refuses ${what}`, async () => {
      const channels = new MultifdChannels(
        [first, second].map((initial) => inputOver(stream(initial, sync))),
      );
      channels.start(new Log());
      await assertFault(channels.sync(), 'corrupt', 0, reason);
    });
  }

  it('refuses a main channel among them, by its place', async () => {
    const main = stream('5145564d 00000003', Buffer.alloc(100));
    const channels = new MultifdChannels([recorded(0, sync), inputOver(main)]);
    channels.start(new Log());
    const reason = /^multifd connection 2: this is a main channel, not a multifd channel$/;
    await assertFault(channels.sync(), 'not-a-stream', 0, reason);
  });

  it('rejects all waits with the first failure, and stops the other channels', async () => {
    const log = new Log();
    const [good, bad] = [new Live(), new Live()];
    const failures: Error[] = [];
    const channels = new MultifdChannels([good.input, bad.input], {
      onFailure: (error) => failures.push(error),
    });
    channels.start(log);
    await good.send(multifdInitial(0));
    const word = watched(channels.sync());
    await bad.send(multifdInitial(1), zero(100));
    assert.match(
      String(word.state),
      /multifd channel 1, packet 1: offset 0x64000 in RAM block .* is not that of a page/,
    );
    assert.deepEqual(failures, [word.state]);
    assert.equal(await faultOf(channels.sync()), word.state);
    assert.equal(await faultOf(channels.finish()), word.state);
    // The wait of the other one does not matter any more.
    await good.send(zero(1), sync);
    assert.deepEqual(log.entries, []);
    channels.stop(new Error('too late'));
    assert.equal(failures.length, 1);
  });

  it('reports a failure that happened while no caller waited', async () => {
    const channels = new MultifdChannels([recorded(0, zero(100)), recorded(1, zero(100))]);
    channels.start(new Log());
    await quiet();
    await assertFault(
      channels.sync(),
      'corrupt',
      64 + 320,
      /^multifd channel 0, packet 1: offset 0x64000 in RAM block/,
    );
  });

  it("passes on a transport's failure, and a visitor's", async () => {
    const live = new Live();
    const broken = new MultifdChannels([live.input]);
    broken.start(new Log());
    const word = watched(broken.sync());
    await quiet();
    live.feed.fail(Object.assign(new Error('gone'), { code: 'ECONNRESET' }));
    await quiet();
    assert.equal((word.state as QemuFileError).code, 'ECONNRESET');

    const failing = (): void => {
      throw new Error('no space left');
    };
    const visited = new MultifdChannels([recorded(0, zero(1), sync)]);
    visited.start({ ...new Log(), dispatch: { page: null, zero: failing } });
    await assert.rejects(visited.sync(), /^Error: no space left$/);
  });

  it('stops everything on request', async () => {
    const log = new Log();
    const [idle, waiting] = [new Live(), new Live()];
    const channels = new MultifdChannels([idle.input, waiting.input]);
    channels.start(log);
    await idle.send(multifdInitial(0), sync, zero(1));
    await waiting.send(multifdInitial(1));
    const word = watched(channels.sync());
    const reason = new Error('given up');
    channels.stop(reason);
    await quiet();
    assert.equal(word.state, reason);
    await waiting.send(zero(2), sync);
    assert.deepEqual(log.entries, []);
    await assert.rejects(channels.finish(), reason);
  });

  it('stops before it was started as well', async () => {
    const log = new Log();
    const channels = new MultifdChannels([recorded(0, zero(1), sync)]);
    const reason = new Error('given up');
    channels.stop(reason);
    channels.start(log);
    await assert.rejects(channels.sync(), reason);
    await quiet();
    assert.deepEqual(log.entries, []);
  });

  it('stops when its signal aborts, and leaves no listener there', async () => {
    const aborting = new AbortController();
    const live = new Live();
    const stopped = new MultifdChannels([live.input], { signal: aborting.signal });
    const finished = new MultifdChannels([recorded(0, sync)], { signal: aborting.signal });
    for (const channels of [stopped, finished]) channels.start(new Log());
    await finished.sync();
    await finished.finish();
    const word = watched(stopped.sync());
    assert.equal(getEventListeners(aborting.signal, 'abort').length, 1);
    aborting.abort(new Error('by the user'));
    await quiet();
    assert.ok(word.state instanceof QemuFileError);
    assert.equal(word.state.code, 'ECANCELED');
    assert.equal(getEventListeners(aborting.signal, 'abort').length, 0);

    const late = new MultifdChannels([recorded(0, sync)], { signal: aborting.signal });
    late.start(new Log());
    await assert.rejects(late.sync(), { code: 'ECANCELED' });
  });

  it('is not failed by a stop after it has finished', async () => {
    const failures: Error[] = [];
    const onFailure = (error: Error) => failures.push(error);
    const channels = new MultifdChannels([recorded(0, sync)], { onFailure });
    channels.start(new Log());
    await channels.sync();
    await channels.finish();
    channels.stop(new Error('too late'));
    assert.deepEqual(failures, []);
  });

  it('refuses more channels than there can be', () => {
    const input = recorded(0);
    assert.throws(() => new MultifdChannels(Array.from({ length: 256 }, () => input)), RangeError);
  });
});
