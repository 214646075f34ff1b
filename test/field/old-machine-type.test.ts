import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { MigrationReader, verifyStream } from '../../lib/migration/index.ts';
import { assertSays, FOLDER, fieldBytes, fieldFile, inspect, run } from './field-stream.ts';

const UNREADABLE =
  /ENOTSUP: the device sections cannot be read: .* machine type before 2\.4 .* all of RAM was read/;

test('RAM of pc-i440fx-2.1 is shown; devices are reported as unreadable', async () => {
  const { shown, ended } = await inspect(fieldFile('old21.mig'));
  assertSays(ended, 5, UNREADABLE);
  assert.ok(shown.ram?.blocks.some(({ name, pages }) => name === 'pc.ram' && pages.normal > 0));
});

test('RAM of pc-i440fx-2.1 is extracted; the exit code reports that devices are not covered', async () => {
  const raw = join(FOLDER, 'old21.raw');
  const ended = await run(['extract', fieldFile('old21.mig'), '--block', 'pc.ram', '--raw', raw]);
  assertSays(ended, 5, UNREADABLE);
  assert.ok(existsSync(raw));
});

test('a program learns where the device sections begin', async () => {
  const source = (async function* () {
    yield fieldBytes('old21.mig');
  })();
  const faults: string[] = [];
  const reader = new MigrationReader(source, { onFault: ({ code }) => void faults.push(code) });
  for await (const event of reader) void event;
  assert.deepEqual([faults, reader.unreadableDevicesAt], [['ENOTSUP'], 50_115]);
});

test('a verification says that RAM is complete, and not so for a stream that ends in RAM', async () => {
  const bytes = fieldBytes('old21.mig');
  const verdict = async (end: number): Promise<boolean> => {
    const source = (async function* () {
      yield bytes.subarray(0, end);
    })();
    return (await verifyStream(source)).isRamComplete;
  };
  assert.deepEqual([await verdict(bytes.length), await verdict(40_000)], [true, false]);
});
