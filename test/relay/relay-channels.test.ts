// A migration of several connections: which is the main one, in which order the destination is connected to,
// and what becomes of all when one fails. The order of arrival, and when a connection stands, is the test's.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { memoryPair } from '../../adapters/index.ts';
import {
  BandwidthBudget,
  type ChannelsOptions,
  type ChannelsResult,
  QemuFile,
  type QemuFileOptions,
  relayChannels,
} from '../../lib/index.ts';
import { pattern, turn } from '../helpers/bytes.ts';
import { until, within } from '../helpers/until.ts';

const MAIN = Buffer.from('5145564d00000003', 'hex');
const MULTIFD = Buffer.from('1122334400000001', 'hex');
/** The start of a main channel when postcopy is resumed: a command that asks for a bitmap. */
const RESUME = Buffer.from('08000a00', 'hex');

/** A connection that stands: our end of it, and the far one. */
interface Connection {
  near: QemuFile;
  far: QemuFile;
}

function connection(options?: QemuFileOptions): Connection {
  const [ours, theirs] = memoryPair();
  return { near: new QemuFile(ours, options), far: new QemuFile(theirs) };
}

/** A source and a destination, and a relay of channels between the two. */
class Stage {
  /** Connections to the destination that have been asked for, in their order. */
  readonly dialled: { far: QemuFile; stands: () => void; fails: (error: Error) => void }[] = [];
  /** The `main` that each call of `accept` was given. */
  readonly askedWith: (QemuFile | undefined)[] = [];
  readonly result: Promise<ChannelsResult>;
  isOver = false;
  allAccepted = 0;
  isListening = true;
  readonly #arrived: QemuFile[] = [];
  #give: (() => void) | undefined;

  constructor(options: Partial<ChannelsOptions> & { file?: QemuFileOptions } = {}) {
    this.result = relayChannels({
      channels: 3,
      accept: ({ signal, main }) => this.#accept(signal, main),
      connect: () => this.#dial(options.file),
      onAllAccepted: () => (this.allAccepted += 1),
      ...options,
    }).finally(() => (this.isOver = true));
  }

  /** Connect as the source, and send some bytes; return its end. */
  arrive(start?: Uint8Array): QemuFile {
    const { near, far } = connection();
    if (start !== undefined) far.write(start);
    this.#arrived.push(near);
    this.#give?.();
    return far;
  }

  /** The next connection to the destination, once it is asked for; it stands from now on. */
  async stand(): Promise<QemuFile> {
    const { dialled } = this;
    const at = this.#stood;
    this.#stood += 1;
    await until(() => dialled.length > at, { what: `connection ${at} to be asked for` });
    const dial = dialled[at] as (typeof dialled)[0];
    dial.stands();
    return dial.far;
  }
  #stood = 0;

  ended(): Promise<ChannelsResult> {
    return within(this.result, { what: 'the end of the relay' });
  }

  async #accept(signal: AbortSignal, main: QemuFile | undefined): Promise<QemuFile> {
    this.askedWith.push(main);
    for (;;) {
      const next = this.#arrived.shift();
      if (next !== undefined) return next;
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        this.#give = resolve;
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  #dial(options: QemuFileOptions | undefined): Promise<QemuFile> {
    const { near, far } = connection(options);
    return new Promise((resolve, reject) => {
      this.dialled.push({ far, stands: () => resolve(near), fails: reject });
    });
  }
}

/** Read a far end to its end. */
async function all(file: QemuFile): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of file) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function assertCut(file: QemuFile, what: string): Promise<void> {
  const cut = until(() => file.error !== null, { what: `${what} to be cut off` });
  file.resume();
  await cut;
}

/** Let all pending callbacks run. */
async function settle(): Promise<void> {
  for (let round = 0; round < 10; round += 1) await turn();
}

describe('channels in any order of connecting', () => {
  const orders: Record<string, (string | undefined)[]> = {
    'main first': ['main', 'multifd', 'silent'],
    'main last': ['multifd', 'silent', 'main'],
    'main in the middle': ['silent', 'main', 'multifd'],
  };
  // One has sent many bytes before the relay looks, as QEMU can.
  const starts: Record<string, Buffer> = {
    main: Buffer.concat([MAIN, pattern(100_000)]),
    multifd: MULTIFD,
  };
  for (const [name, order] of Object.entries(orders)) {
    test(`${name}: the destination is connected to main first, and then one by one`, async () => {
      const stage = new Stage();
      const sources = new Map<string, QemuFile>();
      for (const kind of order as string[]) {
        sources.set(kind, stage.arrive(starts[kind]));
        await settle();
      }
      const others = order.filter((kind) => kind !== 'main') as string[];
      const targets = new Map<string, QemuFile>();
      for (const [at, kind] of ['main', ...others].entries()) {
        await until(() => stage.dialled.length > at, { what: `connection ${at}` });
        await settle();
        assert.equal(stage.dialled.length, at + 1, 'none before the former stands');
        targets.set(kind, await stage.stand());
      }
      const received = new Map([...targets].map(([kind, target]) => [kind, all(target)]));
      const sent = pattern(300_000);
      for (const source of sources.values()) source.write(sent);
      targets.get('main')?.write(Buffer.from('answer'));
      const answers = all(sources.get('main') as QemuFile);
      for (const source of sources.values()) source.end();
      for (const [kind, bytes] of received) {
        const whole = Buffer.concat([starts[kind] ?? Buffer.alloc(0), sent]);
        assert.ok((await bytes).equals(whole), `${kind} arrives`);
      }
      for (const target of targets.values()) target.end();
      for (const kind of others) await all(sources.get(kind) as QemuFile);
      const { complete, failure, channels } = await stage.ended();
      assert.deepEqual([complete, failure], [true, null]);
      assert.equal((await answers).toString(), 'answer');
      assert.deepEqual(
        channels.map(({ forward, return: back }) => [forward.bytes, back?.bytes]),
        ['main', ...others].map((kind) => [
          300_000 + (starts[kind]?.length ?? 0),
          kind === 'main' ? 6 : 0,
        ]),
      );
      assert.equal(stage.allAccepted, 1);
    });
  }

  test('a channel that stays silent is moved, and can end without a byte', async () => {
    const stage = new Stage();
    const main = stage.arrive(MAIN);
    const mainTarget = await stage.stand();
    await settle();
    const silent = stage.arrive();
    const target = await stage.stand();
    assert.notEqual(stage.askedWith.at(-1), undefined, 'whoever accepts knows the main channel');
    for (const end of [main, silent, mainTarget, target]) void all(end).then(() => end.end());
    for (const end of [main, silent]) end.end();
    const { complete, channels } = await stage.ended();
    assert.equal(complete, true);
    assert.equal(channels[1]?.forward.bytes, 0);
  });

  test('the main channel of a postcopy that is resumed begins with a command', async () => {
    const stage = new Stage();
    stage.arrive();
    await settle();
    const main = stage.arrive(RESUME);
    const target = await stage.stand();
    await target.fill(4);
    assert.deepEqual(Buffer.from(target.peekBuffer(4)), RESUME);
    main.destroy(new Error('enough'));
    await (await stage.stand()).close();
    await stage.ended();
  });

  test('fewer connections than the limit are complete when the main one has ended', async () => {
    const stage = new Stage({ channels: 9 });
    const main = stage.arrive(MAIN);
    const target = await stage.stand();
    main.end();
    await all(target);
    await settle();
    assert.equal(stage.isOver, false, 'the way back is open');
    target.end();
    const { complete, channels } = await stage.ended();
    assert.deepEqual([complete, channels.length, stage.allAccepted], [true, 1, 1]);
  });

  test('a connection that arrives as the main one ends is closed, without one to the destination', async () => {
    const { near, far } = connection();
    const arriving = [connection()];
    const main = arriving[0] as Connection;
    const stage = new Stage({
      accept: async ({ signal }) => {
        const next = arriving.shift();
        if (next !== undefined) return next.near;
        await until(() => signal.aborted, { what: 'the end of the main channel' });
        return near;
      },
    });
    main.far.end(MAIN);
    const target = await stage.stand();
    target.end();
    await all(target);
    const { complete, channels } = await stage.ended();
    assert.deepEqual([complete, channels.length, stage.dialled.length], [true, 1, 1]);
    await assertCut(far, 'the late connection');
  });

  test('no more connections are accepted than the limit', async () => {
    const stage = new Stage({ channels: 1 });
    const main = stage.arrive(MAIN);
    stage.arrive(MULTIFD);
    const target = await stage.stand();
    await settle();
    assert.deepEqual([stage.askedWith.length, stage.allAccepted], [1, 1]);
    main.end();
    void all(target).then(() => target.end());
    assert.equal((await stage.ended()).complete, true);
    assert.equal(stage.dialled.length, 1);
  });

  for (const [how, go] of [
    ['ends without a byte', (far: QemuFile) => far.end()],
    ['breaks without a byte', (far: QemuFile) => far.destroy(new Error('reset'))],
  ] as const) {
    test(`a connection that ${how} before the main one takes no place`, async () => {
      const stage = new Stage({ channels: 1 });
      go(stage.arrive());
      await settle();
      const main = stage.arrive(MAIN);
      const target = await stage.stand();
      main.end();
      void all(target).then(() => target.end());
      const { complete, channels } = await stage.ended();
      assert.deepEqual([complete, channels.length], [true, 1]);
    });
  }

  test('a channel of multifd that breaks before the main one takes no place', async () => {
    const stage = new Stage({ channels: 1 });
    const broken = stage.arrive(MULTIFD);
    await settle();
    broken.destroy(new Error('reset'));
    await settle();
    const main = stage.arrive(MAIN);
    const target = await stage.stand();
    main.end();
    void all(target).then(() => target.end());
    assert.equal((await stage.ended()).complete, true);
  });
});

describe('a failure', () => {
  /** Two channels that stand. */
  async function standing(stage: Stage): Promise<{ sources: QemuFile[]; targets: QemuFile[] }> {
    const sources = [stage.arrive(MAIN), stage.arrive(MULTIFD)];
    const targets = [await stage.stand(), await stage.stand()];
    for (const end of [...sources, ...targets]) end.on('error', () => {});
    return { sources, targets };
  }

  for (const [name, channel, end] of [
    ['a source end of main', 0, 'from'],
    ['a source end of a further channel', 1, 'from'],
    ['a destination end of main', 0, 'to'],
    ['a destination end of a further channel', 1, 'to'],
  ] as const) {
    test(`of ${name} cuts off all`, async () => {
      const stage = new Stage({ lingerMs: 20 });
      const ends = await standing(stage);
      const broken = (end === 'from' ? ends.sources : ends.targets)[channel] as QemuFile;
      await settle();
      broken.destroy(new Error('reset'));
      const { complete, failure } = await stage.ended();
      assert.equal(complete, false);
      assert.deepEqual([failure?.channel, failure?.end], [channel, end]);
      for (const other of [...ends.sources, ...ends.targets]) {
        if (other !== broken) await assertCut(other, 'another end');
      }
    });
  }

  test('is not reported if the destination closes a channel with bytes left in it, and then ends main', async () => {
    const reset = Object.assign(new Error('closed'), { code: 'ECONNRESET' });
    for (const mainEnds of [true, false]) {
      const stage = new Stage({ lingerMs: mainEnds ? 10_000 : 20 });
      const { sources, targets } = await standing(stage);
      await settle();
      targets[1]?.destroy(reset);
      sources[1]?.write(pattern(1_000_000));
      if (mainEnds) {
        sources[0]?.end();
        await all(targets[0] as QemuFile);
        targets[0]?.end();
      }
      const { complete, failure, channels } = await stage.ended();
      assert.equal(complete, mainEnds);
      assert.equal(failure?.channel, mainEnds ? undefined : 1);
      assert.equal(channels[1]?.complete, false);
    }
  });

  test('to connect to the destination cuts off all', async () => {
    const stage = new Stage();
    const main = stage.arrive(MAIN);
    const waiting = stage.arrive(MULTIFD);
    await until(() => stage.dialled.length > 0, { what: 'a connection' });
    stage.dialled[0]?.fails(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));
    const { failure } = await stage.ended();
    assert.deepEqual(
      [failure?.channel, failure?.end, failure?.error.code],
      [0, 'to', 'ECONNREFUSED'],
    );
    await assertCut(main, 'the main channel');
    await assertCut(waiting, 'the channel that waited');
    assert.equal(stage.dialled.length, 1);
  });

  test('of onChannel closes all connections, and is reported', async () => {
    const onChannel = (): never => {
      throw new Error('no such channel');
    };
    const stage = new Stage({ onChannel });
    const source = stage.arrive(MAIN);
    await stage.stand();
    const { complete, failure } = await stage.ended();
    assert.deepEqual([complete, failure?.channel, failure?.end], [false, 0, null]);
    assert.match(failure?.error.message ?? '', /no such channel/);
    await assertCut(source, 'the channel');
  });

  test('to accept is one of the source', async () => {
    const accept = (): Promise<never> => Promise.reject(new Error('the listener broke'));
    const { failure } = await new Stage({ accept }).ended();
    assert.deepEqual([failure?.channel, failure?.end], [null, 'from']);
    assert.match(failure?.error.message ?? '', /the listener broke/);
  });

  test('is reported for an unknown start before there is a main channel', async () => {
    for (const start of ['HTTP', '\0\0\0\0', '\x1f\x8b\x08\0']) {
      const stage = new Stage();
      const waiting = stage.arrive(MULTIFD);
      const strange = stage.arrive(Buffer.from(start, 'latin1'));
      const { failure, channels } = await stage.ended();
      assert.deepEqual([failure?.end, failure?.error.code], ['from', 'EPROTO']);
      assert.equal(channels.length, 0);
      for (const each of [waiting, strange]) await assertCut(each, 'each connection');
    }
  });

  for (const when of ['before', 'while it waits for main', 'while it connects', 'while it moves']) {
    test(`is reported for an aborted signal, ${when}`, async () => {
      const controller = new AbortController();
      if (when === 'before') controller.abort();
      const stage = new Stage({ signal: controller.signal });
      const far: QemuFile[] = [];
      if (when === 'while it moves') {
        far.push(...(await standing(stage)).sources);
      } else if (when !== 'before') {
        far.push(stage.arrive(MULTIFD));
        await settle();
      }
      if (when === 'while it connects') {
        far.push(stage.arrive(MAIN));
        await until(() => stage.dialled.length > 0, { what: 'a connection' });
      }
      controller.abort(new Error('no longer wanted'));
      if (when === 'while it connects') await stage.stand();
      const { complete, failure } = await stage.ended();
      assert.deepEqual([complete, failure?.end, failure?.error.code], [false, null, 'ECANCELED']);
      for (const each of far) await assertCut(each, `a connection ${when}`);
    });
  }

  test('is reported at once for an invalid number of channels', async () => {
    for (const channels of [0, -1, 1.5, Number.NaN]) {
      await assert.rejects(new Stage({ channels }).ended(), RangeError);
    }
  });
});

describe('a limit', () => {
  test('of a budget holds for all channels together, and can be lifted while it runs', async () => {
    const budget = new BandwidthBudget(1_000_000);
    const stage = new Stage({ file: { budget } });
    const sources = [stage.arrive(MAIN), stage.arrive(MULTIFD)];
    const targets = [await stage.stand(), await stage.stand()];
    const received = targets.map((target) => all(target));
    const start = performance.now();
    for (const source of sources) source.write(pattern(10_000_000));
    await until(() => targets.every((target) => target.getPosition > 50_000), {
      what: 'bytes on both channels',
    });
    const moved = targets.reduce((sum, target) => sum + target.getPosition, 0);
    const allowed = 1000 * (performance.now() - start + 15);
    assert.ok(moved <= allowed, `${moved} bytes where ${allowed} were allowed`);
    budget.maxBandwidth = 0;
    for (const source of sources) source.end();
    const lengths = (await Promise.all(received)).map(({ length }) => length);
    assert.deepEqual(lengths, [10_000_008, 10_000_008]);
    for (const target of targets) target.end();
    const { complete, limitedSeconds } = await stage.ended();
    assert.equal(complete, true);
    assert.ok(limitedSeconds > 0);
  });
});
