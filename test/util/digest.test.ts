import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { Digest, loadDigest } from '../../lib/util/digest.ts';
import { hex, pattern, piecesOf, turn } from '../helpers/bytes.ts';
import { Sink, Source } from '../helpers/transports/backends.ts';

/** XXH64, seed 0, as xxHash's own documentation and test suites give it. */
const KNOWN: readonly (readonly [string, string])[] = [
  ['', 'ef46db3751d8e999'],
  ['a', 'd24ec4f1a98c6e5b'],
  ['abc', '44bc2cf5ad770999'],
];

describe('the digest of a file', () => {
  for (const [text, digest] of KNOWN) {
    test(`is XXH64 of the bytes that the backend took and of the bytes fetched: ${JSON.stringify(text)}`, async () => {
      const bytes = Buffer.from(text);
      for (const answering of ['sync', 'async'] as const) {
        const writer = new QemuFile(new Sink(answering), { digest: 'xxh64' });
        for (const byte of bytes) writer.putByte(byte);
        await writer.flush();
        assert.equal(writer.putDigest, digest);

        for (const hands of [false, true]) {
          const source = new Source(piecesOf(bytes, 1), { answering, hands });
          const reader = new QemuFile(source, { digest: 'xxh64' });
          await reader.readBuffer(bytes.length);
          assert.equal(reader.getDigest, digest);
          assert.equal(reader.putDigest, 'ef46db3751d8e999');
        }
      }
    });
  }

  test('is null without the option', () => {
    const file = new QemuFile(new Sink());
    assert.equal(file.putDigest, null);
    assert.equal(file.getDigest, null);
  });

  test('is the same however the bytes were put: staged, by reference, written, limited', async () => {
    await loadDigest();
    const bytes = pattern(90_000);
    const whole = new Digest();
    whole.update(bytes);
    for (const options of [{}, { maxBandwidth: 2_000_000 }, { gatherEntries: 2 }]) {
      const sink = new Sink('async');
      const file = new QemuFile(sink, { ...options, digest: 'xxh64' });
      for (const [at, piece] of piecesOf(bytes, 2999).entries()) {
        if (at % 3 === 0) file.putBuffer(piece);
        else if (at % 3 === 1) file.putBufferAsync(piece);
        else file.write(piece);
      }
      await file.close();
      assert.equal(Buffer.compare(sink.written, bytes), 0);
      assert.equal(file.putDigest, whole.hex());
    }
  });

  test('can be read at any time, and covers only bytes taken', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { digest: 'xxh64' });
    await loadDigest();
    file.write('a');
    await turn();
    assert.equal(file.putDigest, 'ef46db3751d8e999');
    sink.take();
    await turn();
    assert.equal(file.putDigest, 'd24ec4f1a98c6e5b');
    file.write('b');
    file.putByte(0x63);
    await turn();
    assert.equal(file.putDigest, 'd24ec4f1a98c6e5b');
    sink.take();
    await turn();
    assert.equal(file.putDigest, '44bc2cf5ad770999');
  });

  test('does not cover a batch that failed', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink, { digest: 'xxh64' });
    file.write('a');
    await file.flush();
    sink.misbehave = () => 0;
    file.write('b');
    await assert.rejects(file.flush());
    assert.equal(file.putDigest, 'd24ec4f1a98c6e5b');
  });

  test('covers the look-ahead, and bytes that pipe() and read() take', async () => {
    const file = new QemuFile(new Source([hex('61'), hex('6263')]), { digest: 'xxh64' });
    await file.fill(2);
    assert.equal(file.getDigest, '44bc2cf5ad770999');
    const piped = new QemuFile(new Source([hex('61'), hex('6263')]), { digest: 'xxh64' });
    for await (const chunk of piped) assert.ok(chunk.length > 0);
    assert.equal(piped.getDigest, '44bc2cf5ad770999');
  });

  test('is right from the first byte, though the hash is not loaded yet', () => {
    // In a process of its own, where it is not loaded yet.
    const lib = fileURLToPath(new URL('../../lib/qemu-file/qemu-file.ts', import.meta.url));
    const script = `
      import { QemuFile } from ${JSON.stringify(lib)};
      let written = '';
      const writer = new QemuFile(
        { writevBuffer: (list) => { written += Buffer.concat(list); return Buffer.concat(list).length; } },
        { digest: 'xxh64' });
      writer.write('a');
      const flushed = writer.flush();
      writer.putBufferAsync(Buffer.from('bc'));
      await flushed;
      await writer.close();
      const chunks = [Buffer.from('a'), Buffer.from('bc'), Buffer.alloc(0)];
      const reader = new QemuFile({ getBuffer: () => chunks.shift() }, { digest: 'xxh64' });
      const read = (await reader.readBuffer(3)).toString();
      console.log(written, writer.putDigest, read, reader.getDigest);
    `;
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '--eval', script],
      { encoding: 'utf8', timeout: 300_000 },
    );
    assert.equal(stderr, '');
    assert.equal(stdout, 'abc 44bc2cf5ad770999 abc 44bc2cf5ad770999\n');
  });
});
