import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { openSource } from '../../../lib/migration/format/stream-source.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, wrongly } from '../../helpers/bytes.ts';
import { Source } from '../../helpers/transports/backends.ts';

async function* chunks(...given: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* given;
}

describe('openSource', () => {
  test('a file is passed through and left open', async () => {
    const file = new QemuFile(new Source([hex('01 02')]));
    const source = openSource(file);
    assert.equal(source.file, file);
    await source.close();
    assert.equal(file.destroyed, false);
    assert.equal(await file.readBe16(), 0x0102);
    await file.close();
  });

  test('chunks keep their order, and an empty one is not the end', async () => {
    const none = new Uint8Array(0);
    const { file, close } = openSource(chunks(none, hex('01'), none, none, hex('02 03'), none));
    assert.equal(await file.fillOrEnd(100), 3);
    assert.deepEqual(file.getBuffer(3), hex('01 02 03'));
    assert.equal(await file.atEnd(), true);
    await close();
  });

  test('chunks are not copied', async () => {
    const chunk = pattern(100_000);
    const { file, close } = openSource(chunks(chunk));
    await file.fill(chunk.length);
    assert.equal(file.getBufferInPlace(chunk.length).buffer, chunk.buffer);
    await close();
  });

  test('a Readable that is given up is destroyed', async () => {
    const readable = Readable.from([hex('01 02'), hex('03')], { objectMode: false });
    const { file, close } = openSource(readable);
    await file.fill(1);
    await close();
    assert.equal(readable.destroyed, true);
  });

  test('does not call return() of a source that has ended', async () => {
    let returned = 0;
    const source: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: true, value: undefined }),
        return: async () => {
          returned += 1;
          return { done: true, value: undefined };
        },
      }),
    };
    const { file, close } = openSource(source);
    assert.equal(await file.atEnd(), true);
    await close();
    assert.equal(returned, 0);
  });

  test('a source that is stuck does not hold up its closing', async () => {
    let returned = 0;
    const never = new Promise<never>(() => {});
    const source: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({
        next: () => never,
        return: () => {
          returned += 1;
          return never;
        },
      }),
    };
    const { file, close } = openSource(source);
    const filled = file.fill(1);
    await close();
    assert.equal(returned, 1);
    await assert.rejects(filled, { code: 'ECANCELED' });
  });

  test("a source's failure is that of the file, and closing does not repeat it", async () => {
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      yield hex('01');
      throw new Error('the disk is on fire');
    };
    const { file, close } = openSource(failing());
    await assert.rejects(file.fill(2), (error) => {
      assert.ok(error instanceof QemuFileError);
      assert.match(error.message, /the disk is on fire/);
      return true;
    });
    await close();
  });

  test('a source that fails when it is abandoned does not fail the caller', async () => {
    const source: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: hex('01') }),
        return: async () => {
          throw new Error('cannot return');
        },
      }),
    };
    const { file, close } = openSource(source);
    await file.fill(1);
    await close();
  });

  test('a source of text is refused with a reason, and given up', async () => {
    const readable = Readable.from(['QEVM', 'more'], { encoding: 'utf8' });
    const { file, close } = openSource(wrongly<AsyncIterable<Uint8Array>>(readable));
    await assert.rejects(file.fill(1), /must yield Uint8Array/);
    await close();
    assert.equal(readable.destroyed, true);
  });
});
