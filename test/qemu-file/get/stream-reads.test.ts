// Typed gets, read(), pipe() and for await take from the same bytes.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, piecesOf, turn } from '../../helpers/bytes.ts';
import { readSome } from '../../helpers/read-some.ts';
import { Feed, Source } from '../../helpers/transports/backends.ts';
import { chunkings, describeWay, WAYS } from './chunkings.ts';

describe('typed gets and read()', () => {
  for (const way of WAYS) {
    test(`take turns at every split, and the position is right (${describeWay(way)})`, async () => {
      const bytes = pattern(24);
      for (const chunks of chunkings(bytes)) {
        const file = new QemuFile(new Source(chunks, way));
        assert.equal(await file.readBe16(), 0x0001);
        const piece = await readSome(file, 3);
        assert.deepEqual(piece, hex('020304'));
        assert.equal(file.getPosition, 5);
        assert.equal(await file.readByte(), 5);
        assert.equal(file.getPosition, 6);
        await file.fill(4);
        assert.equal(file.getBe32(), 0x06070809);
        assert.deepEqual(await readSome(file, 1), hex('0a'));
        assert.equal(file.getPosition, 11);
        const rest: Buffer[] = [];
        for await (const chunk of file) rest.push(chunk);
        assert.deepEqual(Buffer.concat(rest), bytes.subarray(11));
        assert.equal(file.getPosition, 24);
        assert.equal(file.error, null);
      }
    });

    test(`first, pipe() of the rest loses nothing at any split (${describeWay(way)})`, async () => {
      const bytes = pattern(20);
      for (const chunks of chunkings(bytes)) {
        for (const header of [0, 1, 7, 19, 20]) {
          const file = new QemuFile(new Source(chunks, way));
          for (let at = 0; at < header; at += 1) assert.equal(await file.readByte(), at);
          assert.deepEqual(await collect(file), bytes.subarray(header));
        }
      }
    });

    test(`after 'readable' return the bytes of the stream, at every split (${describeWay(way)})`, async () => {
      const bytes = pattern(20);
      for (const chunks of chunkings(bytes)) {
        for (const wait of [0, 3]) {
          const file = new QemuFile(new Source(chunks, way));
          await new Promise((resolve) => file.once('readable', resolve));
          // The stream reads ahead meanwhile, to the very end maybe.
          for (let turns = 0; turns < wait; turns += 1) await turn();
          assert.equal(file.getPosition, 0);
          assert.equal(await file.readBe32(), 0x00010203);
          assert.equal(file.getPosition, 4);
          for (let turns = 0; turns < wait; turns += 1) await turn();
          assert.deepEqual(await readSome(file, 2), hex('0405'));
          assert.equal(await file.readBe16(), 0x0607);
          assert.deepEqual(await collect(file), bytes.subarray(8));
        }
      }
    });

    test(`in a for await loop take bytes between its chunks (${describeWay(way)})`, async () => {
      const bytes = pattern(40);
      const file = new QemuFile(new Source(piecesOf(bytes, 4), way));
      const seen: number[] = [];
      for await (const chunk of file) {
        seen.push(...chunk);
        if (seen.length <= 30 && !(await file.atEnd())) seen.push(await file.readByte());
      }
      assert.deepEqual(Buffer.from(seen), bytes);
    });

    test(`to the last byte, then the stream ends (${describeWay(way)})`, async () => {
      const bytes = pattern(12);
      for (const chunks of chunkings(bytes)) {
        const file = new QemuFile(new Source(chunks, way));
        file.read(0);
        await turn();
        await turn();
        await file.readSkip(12);
        const ended = new Promise((resolve) => file.once('end', resolve));
        file.resume();
        await ended;
      }
    });
  }

  test("pass the rest to 'data' at once, though the peer is silent", async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read();
    feed.give(hex('0102030405060708'));
    await turn();
    assert.equal(file.getBe32(), 0x01020304);
    const chunk = new Promise((resolve) => file.once('data', resolve));
    assert.deepEqual(await chunk, hex('05060708'));
    assert.equal(file.getPosition, 8);
    file.destroy();
  });

  test("pass the rest to 'readable' as well", async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read();
    feed.give(hex('0102030405060708'));
    await turn();
    assert.equal(await file.readBe32(), 0x01020304);
    await new Promise((resolve) => file.once('readable', resolve));
    assert.deepEqual(file.read(), hex('05060708'));
    assert.equal(file.read(), null);
    file.destroy();
  });

  test("leave bytes that 'readable' announces, even without another read()", async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read();
    feed.give(hex('0102030405060708'));
    await turn();
    for (const [got, left] of [
      [0x0102, 6],
      [0x0304, 4],
      [0x0506, 2],
    ]) {
      assert.equal(file.getBe16(), got);
      await new Promise((resolve) => file.once('readable', resolve));
      assert.equal(file.readableLength, left);
      assert.equal(file.getPosition, 8 - (left ?? 0));
    }
    file.destroy();
  });

  test("within 'data' take the bytes that follow the chunk", async () => {
    for (const way of WAYS) {
      const bytes = pattern(60);
      const file = new QemuFile(new Source(piecesOf(bytes, 4), way));
      const seen: number[] = [];
      file.on('data', (chunk: Buffer) => {
        seen.push(...chunk);
        if (file.peekBuffer(1).length > 0) seen.push(file.getByte());
        assert.equal(file.getPosition, seen.length);
      });
      await new Promise((resolve) => file.once('end', resolve));
      assert.deepEqual(Buffer.from(seen), bytes);
    }
  });

  test('see the rest of read(size) before the look-ahead, for every get', async () => {
    const gets: readonly (readonly [string, (file: QemuFile) => unknown])[] = [
      ['getBe32', (file) => file.getBe32()],
      ['getBuffer(target)', (file) => file.getBuffer(Buffer.alloc(4))],
      ['getBuffer(size)', (file) => file.getBuffer(4)],
      ['getBufferInPlace', (file) => file.getBufferInPlace(4)],
      ['peekByte', (file) => [file.peekByte(0), file.skip(4)]],
      ['peekBuffer', (file) => [...file.peekBuffer(4), file.skip(4)]],
      ['skip', (file) => file.skip(4)],
      ['readBuffer(target)', (file) => file.readBuffer(Buffer.alloc(4))],
      ['readBuffer(size)', (file) => file.readBuffer(4)],
      ['readSkip', (file) => file.readSkip(4)],
      ['readBe32', (file) => file.readBe32()],
    ];
    for (const [name, get] of gets) {
      const file = new QemuFile(new Source([pattern(10), pattern(10, 10)], { hands: true }));
      await file.fill(20);
      assert.deepEqual(file.read(2), hex('0001'));
      assert.equal(file.readableLength, 8, name);
      await get(file);
      assert.equal(file.getPosition, 6, name);
      assert.equal(file.getByte(), 6, name);
    }
    const file = new QemuFile(new Source([pattern(10), pattern(10, 10)], { hands: true }));
    await file.fill(20);
    file.read(2);
    assert.deepEqual(file.getBuffer(4), hex('02030405'));
    file.read(1);
    const target = Buffer.alloc(4);
    file.getBuffer(target);
    assert.deepEqual(target, hex('0708090a'));
    file.read(1);
    assert.equal(file.peekByte(0), 0x0c);
    assert.equal(await file.readBuffer(target), 4);
    assert.deepEqual(target, hex('0c0d0e0f'));
  });

  test('alone, see first what unshift() put back', async () => {
    const file = new QemuFile(new Source([pattern(8)]));
    assert.equal(await file.readBe32(), 0x00010203);
    file.unshift(hex('0203'));
    assert.equal(file.getByte(), 2);
    assert.equal(file.getPosition, 3);
    assert.equal(file.getBe32(), 0x03040506);
    assert.equal(file.getByte(), 7);
  });

  test('and read() in one tick: read() returns the rest', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read(0);
    feed.give(hex('0102030405060708'));
    await turn();
    assert.equal(file.getBe16(), 0x0102);
    assert.deepEqual(file.read(2), hex('0304'));
    assert.equal(file.getByte(), 5);
    assert.deepEqual(file.read(), hex('060708'));
    assert.equal(file.getPosition, 8);
    file.destroy();
  });

  test('read(size) returns the rest at the end, even if it is shorter', async () => {
    for (const way of WAYS) {
      const file = new QemuFile(new Source([hex('0102030405'), hex('060708')], way));
      const got: string[] = [];
      await new Promise<void>((resolve) => {
        file.on('readable', () => {
          for (let chunk = file.read(5); chunk !== null; chunk = file.read(5)) {
            got.push(chunk.toString('hex'));
          }
        });
        file.once('end', resolve);
      });
      assert.deepEqual(got, ['0102030405', '060708']);
    }
  });

  test('after unshift() see the bytes that were put back first', async () => {
    for (const way of WAYS) {
      for (const before of [0, 1]) {
        const file = new QemuFile(new Source([pattern(8), pattern(8, 8)], way));
        await new Promise((resolve) => file.once('readable', resolve));
        const chunk = file.read(6);
        assert.deepEqual(chunk, hex('000102030405'));
        if (before > 0) assert.equal(await file.readByte(), 6);
        assert.equal(file.getPosition, 6 + before);
        file.unshift(hex('0405'));
        assert.equal(file.getPosition, 4 + before);
        assert.equal(await file.readBe16(), 0x0405);
        assert.equal(file.getPosition, 6 + before);
        assert.deepEqual(await collect(file), pattern(10 - before, 6 + before));
      }
    }
  });

  test('before unshift(), then pipe(): the bytes that were put back are first', async () => {
    const file = new QemuFile(new Source([pattern(8), pattern(8, 8)]));
    assert.equal(await file.readBe32(), 0x00010203);
    file.unshift(hex('0203'));
    assert.equal(file.getPosition, 2);
    assert.deepEqual(await collect(file), pattern(14, 2));
  });

  test('while a pipe is paused take the bytes that it has not sent', async () => {
    const file = new QemuFile(new Source(piecesOf(pattern(100), 10), { answering: 'async' }));
    const chunks: Buffer[] = [];
    file.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      file.pause();
    });
    await new Promise((resolve) => file.once('data', resolve));
    for (let turns = 0; turns < 5; turns += 1) await turn();
    assert.equal(file.getPosition, 10);
    assert.equal(await file.readByte(), 10);
    file.removeAllListeners('data');
    const rest = collect(file);
    file.resume();
    assert.deepEqual(await rest, pattern(89, 11));
  });

  test('of text that setEncoding() made leave that text alone', async () => {
    const file = new QemuFile(new Source([hex('6162'), hex('6364')], { answering: 'async' }));
    file.setEncoding('latin1');
    await new Promise((resolve) => file.once('readable', resolve));
    assert.equal(await file.readByte(), 0x63);
    assert.equal(file.getError(), 0);
    file.destroy();
  });

  test('wait before read() does: the first to ask receives the value', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const chunks: Buffer[] = [];
    file.on('data', (chunk: Buffer) => chunks.push(chunk));
    await turn();
    const value = file.readBe32();
    feed.give(hex('0102'));
    await turn();
    assert.equal(chunks.length, 0);
    feed.give(hex('030405'));
    assert.equal(await value, 0x01020304);
    await turn();
    assert.deepEqual(Buffer.concat(chunks), hex('05'));
    file.destroy();
  });

  /** All that is left, as pipe() and 'data' give it. */
  function collect(file: QemuFile): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      file.on('data', (chunk: Buffer) => chunks.push(chunk));
      file.once('end', () => resolve(Buffer.concat(chunks)));
      file.once('error', reject);
    });
  }
});
