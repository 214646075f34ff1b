import { test } from 'node:test';
import { assertSays, run } from './field-stream.ts';

/** A stream with one device section, its footer, and no VM description. */
function streamOf(machine: string): Buffer {
  const name = Buffer.from(machine);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(name.length);
  const section = '04000000050364657600000000000000010011227e0000000500';
  const head = Buffer.from('5145564d0000000307', 'hex');
  return Buffer.concat([head, length, name, Buffer.from(section, 'hex')]);
}

test('a stream without a VM description is refused with the option that accepts it', async () => {
  const stream = streamOf('pc-i440fx-7.2');
  assertSays(await run(['verify', '-'], stream), 1, /VM description is missing.*--no-description/);
  assertSays(await run(['verify', '-', '--no-description'], stream), 0);
});

for (const machine of ['pc-i440fx-2.2', 'pc-q35-2.0', 'pseries-2.1', 'xenfv', 'xenfv-4.2']) {
  test(`${machine} has none by default: a note reports that devices were found by footers`, async () => {
    assertSays(await run(['verify', '-'], streamOf(machine)), 0, /found by looking for footers/);
  });
}

for (const machine of ['pc-i440fx-2.3', 'pc-i440fx-1.7', 'pseries-2.3', 'pc-i440fx-2.10']) {
  test(`${machine} has one by default`, async () => {
    assertSays(await run(['verify', '-'], streamOf(machine)), 1, /--no-description/);
  });
}
