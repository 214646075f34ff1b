// What a backend answers to a read, in all its forms, and answers that make no sense.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, piecesOf, turn, wrongly } from '../../helpers/bytes.ts';
import { Feed, Source } from '../../helpers/transports/backends.ts';

describe('a backend', () => {
  test('is asked for the position of the next byte, with a buffer of lookAheadSize', async () => {
    const sizes: number[] = [];
    const positions: number[] = [];
    const file = new QemuFile(
      {
        getBuffer: (buffer, position) => {
          sizes.push(buffer.length);
          positions.push(position);
          return 10;
        },
      },
      { lookAheadSize: 100 },
    );
    for (let at = 0; at < 30; at += 1) await file.readBuffer(10);
    assert.ok(sizes.every((size) => size >= 25 && size <= 100));
    assert.equal(sizes[0], 100);
    assert.deepEqual(
      positions,
      Array.from({ length: 30 }, (_, at) => at * 10),
    );
  });

  test('is never asked twice at a time', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const reads = [file.readByte(), file.fill(4), file.readBe32()];
    file.read();
    await turn();
    assert.equal(feed.asked, 1);
    feed.give(hex('0102'));
    await turn();
    assert.equal(feed.asked, 2);
    feed.give(hex('030405060708'));
    assert.deepEqual(await Promise.all(reads), [1, 7, 0x02030405]);
    assert.deepEqual(file.read(), hex('060708'));
  });

  test('that answers EAGAIN is asked again later', async () => {
    for (const again of [
      () => -11,
      () => Promise.resolve(-11),
      () => Promise.reject(Object.assign(new Error('again'), { code: 'EAGAIN' })),
      (): number => {
        throw Object.assign(new Error('again'), { code: 'EAGAIN' });
      },
    ]) {
      let asked = 0;
      const file = new QemuFile({
        getBuffer: () => {
          asked += 1;
          return asked < 3 ? again() : hex('0102');
        },
      });
      assert.equal(await file.readBe16(), 0x0102);
      assert.equal(asked, 3);
      assert.equal(file.getError(), 0);
    }
  });

  const nonsense: readonly (readonly [string, unknown])[] = [
    ['NaN', Number.NaN],
    ['a fraction', 1.5],
    ['more than the room', 65_537],
    ['a huge number', 2 ** 53],
    ['Infinity', Infinity],
    ['undefined', undefined],
    ['null', null],
    ['a string', '4'],
    ['a boolean', true],
    ['an object', {}],
    ['an object without prototype', Object.create(null)],
    ['an array', [1, 2]],
    ['a symbol', Symbol('four')],
    ['a function', () => 4],
    ['another kind of view', new Uint16Array(2)],
    ['a bigint', 4n],
  ];
  for (const [what, answer] of nonsense) {
    test(`that answers ${what} latches EIO`, async () => {
      for (const value of [answer, Promise.resolve(answer)]) {
        const file = new QemuFile({ getBuffer: () => wrongly<number>(value) });
        await assert.rejects(file.readByte(), { code: 'EIO', operation: 'getBuffer', position: 0 });
        assert.equal(file.getError(), -5);
      }
    });
  }

  for (const [what, fails, code] of [
    ['answers a negative errno', () => -32, 'EPIPE'],
    ['answers -1', () => -1, 'EPERM'],
    ['answers an errno this system does not know', () => -99_999, 'EIO'],
    ['resolves with a negative errno', () => Promise.resolve(-104), 'ECONNRESET'],
    ['rejects with an errno code', () => reject({ code: 'ECONNRESET' }), 'ECONNRESET'],
    ['rejects with another code', () => reject({ code: 'ERR_TLS' }), 'EIO'],
    ['rejects with the name of a method as code', () => reject({ code: 'toString' }), 'EIO'],
    ['rejects with undefined', () => Promise.reject(wrongly<Error>(undefined)), 'EIO'],
    ['rejects with a string', () => Promise.reject(wrongly<Error>('no')), 'EIO'],
    ['rejects with an AbortError', () => reject({ name: 'AbortError' }), 'ECANCELED'],
    ['throws', () => raise(new Error('no')), 'EIO'],
    ['throws undefined', () => raise(undefined), 'EIO'],
    ['throws null', () => raise(null), 'EIO'],
  ] as const) {
    test(`that ${what} has ${code} latched, with where it happened and its cause`, async () => {
      let asked = 0;
      const file = new QemuFile({
        getBuffer: () => {
          asked += 1;
          return asked === 1 ? hex('0102') : fails();
        },
      });
      await file.readByte();
      await assert.rejects(file.readBe32(), { code, operation: 'getBuffer', position: 2 });
      assert.equal(file.error?.code, code);
      assert.equal(file.getPosition, 1);
      await assert.rejects(file.fill(1), { code });
      await assert.rejects(file.close(), { code });
    });
  }

  function reject(properties: object): Promise<number> {
    return Promise.reject(Object.assign(new Error('no'), properties));
  }

  function raise(error: unknown): number {
    throw error;
  }

  test('that answers EAGAIN is not asked again once the file is closed, and leaves no timer', async () => {
    const timers = (): number =>
      process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    const file = new QemuFile({ getBuffer: () => -11 });
    const reading = file.readByte();
    assert.equal(timers(), before + 1);
    file.destroy();
    assert.equal(timers(), before);
    await assert.rejects(reading, { code: 'ECANCELED' });
  });

  test('that trickles bytes costs no more than its bytes', async () => {
    // Each piece of a long queue must not cost a walk over the others.
    const bytes = pattern(60_000);
    const file = new QemuFile(new Source(piecesOf(bytes, 1), { hands: true }));
    await file.fill(60_000);
    assert.equal(Buffer.compare(file.getBufferInPlace(60_000), bytes), 0);
  });
});
