import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  assertSays,
  FOLDER,
  fieldBytes,
  fieldFile,
  inspect,
  run,
  writeField,
} from './field-stream.ts';

/** Another vendor's section instead of `pbs-state`, with the same length of its name. */
function renamed(): Buffer {
  const bytes = fieldBytes('pve-pbs-state.mig');
  bytes.write('xyz-state', bytes.indexOf('pbs-state'));
  return bytes;
}

test('a save of Proxmox is verified; its backup state is named as skipped', async () => {
  const ended = await run(['verify', fieldFile('pve-pbs-state.mig')]);
  assertSays(ended, 0, /section "pbs-state": 126 bytes of Proxmox backup state were skipped/);
});

test('all devices and RAM of a save of Proxmox are shown and extracted', async () => {
  const path = fieldFile('pve-pbs-state.mig');
  const { shown, ended } = await inspect(path);
  assertSays(ended, 0);
  assert.ok(Object.keys(shown.devices).includes('mc146818rtc'));
  const raw = join(FOLDER, 'pve.raw');
  assertSays(await run(['extract', path, '--block', 'pc.ram', '--raw', raw]), 0);
  const block = shown.ram?.blocks.find(({ name }) => name === 'pc.ram');
  assert.ok(block !== undefined && statSync(raw).size > 0);
});

test('a live section of unknown layout is skipped up to its footer, with a warning', async () => {
  const path = writeField('vendor.mig', renamed());
  const ended = await run(['verify', path]);
  assertSays(ended, 0, /section "xyz-state": the layout is unknown: 134 bytes were skipped/);
  const { shown } = await inspect(path);
  assert.ok(Object.keys(shown.devices).includes('mc146818rtc'));
});

test('a body of a vendor that looks like footers is passed in linear time', async () => {
  const bytes = renamed();
  const at = bytes.indexOf('xyz-state') + 'xyz-state'.length + 8;
  const id = bytes.subarray(bytes.indexOf('xyz-state') - 5, bytes.indexOf('xyz-state') - 1);
  const mark = Buffer.concat([Buffer.of(0x7e), id]);
  const hostile = Buffer.alloc(5 * 2 ** 20, mark);
  const end = bytes.indexOf(mark, at);
  const path = writeField(
    'hostile.mig',
    Buffer.concat([bytes.subarray(0, at), hostile, bytes.subarray(end)]),
  );
  assertSays(await run(['verify', path]), 0, /5242880 bytes were skipped/);
});
