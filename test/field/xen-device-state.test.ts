import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertSays, fieldFile, inspect, run } from './field-stream.ts';

test('a file of xen-save-devices-state is recognised and its sections are listed', async () => {
  const path = fieldFile('xen-save-devices-state.bin');
  assertSays(await run(['verify', path]), 0, /device state of Xen \(xen-save-devices-state\)/);
  const { shown, ended } = await inspect(path);
  assertSays(ended, 0);
  assert.equal(shown.sections.length, 35);
  assert.deepEqual([shown.sections[0]?.name, shown.ram], ['timer', null]);
});
