import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryPair } from '../../../adapters/index.ts';
import { QemuFile, QemuFileError } from '../../../lib/index.ts';
import { MigrationWriter } from '../../../lib/migration/index.ts';
import { LoadedSink } from '../../../lib/vm/lazy/loaded-sink.ts';

const RAM = { sectionId: 2, instanceId: 0, versionId: 4 };

/** A sink whose PART of `ram` is open, and the end that receives. */
function connect(shut: Promise<unknown>) {
  const [near, far] = memoryPair();
  const started = [{ kind: 'start', name: 'ram', ...RAM } as const];
  const writer = new MigrationWriter(new QemuFile(near), { started });
  writer.beginSection({ kind: 'part', name: 'ram', ...RAM });
  return { sink: new LoadedSink(writer, RAM, shut), far: new QemuFile(far) };
}

const never = new Promise(() => {});

test('a PING follows records between two PARTs, and its answers settle the writes in their order', async () => {
  const { sink, far } = connect(never);
  const settled: number[] = [];
  const writes = [1, 2].map(async (byte) => {
    await sink.writeUntilLoaded(Buffer.of(byte));
    settled.push(byte);
  });
  const mark = [
    ...['0000000000000010', '7e00000002'], // EOS, footer
    ...['08', '0002', '0004', '00000005'], // PING 5
    ...['02', '00000002'], // PART of section 2
  ].join('');
  const bytes = await far.readBuffer(5 + 2 * (1 + mark.length / 2));
  assert.equal(bytes.toString('hex'), `0200000002${'01'}${mark}${'02'}${mark}`);
  assert.deepEqual(settled, []);
  sink.noteLoaded();
  await writes[0];
  assert.deepEqual(settled, [1]);
  sink.noteLoaded();
  await Promise.all(writes);
  assert.deepEqual(settled, [1, 2]);
});

test('the end of the return path fails the writes that wait, and later ones', async () => {
  for (const [shut, code] of [
    [Promise.resolve(0), 'EIO'],
    [Promise.reject(new QemuFileError('ECONNRESET', 'gone')), 'ECONNRESET'],
  ] as const) {
    const { sink } = connect(shut);
    await assert.rejects(sink.writeUntilLoaded(Buffer.of(1)), { code });
    await assert.rejects(sink.writeUntilLoaded(Buffer.of(2)), { code });
  }
});
