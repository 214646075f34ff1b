import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertSays, fieldFile, inspect, run } from './field-stream.ts';

const FOLLOW = /7926371 bytes follow the stream, at byte 800692/;

test('the VM description of an older stream at the end of a volume is not used', async () => {
  const path = fieldFile('stale-tail.raw');
  assertSays(await run(['verify', path]), 0, FOLLOW);
  const { shown } = await inspect(path);
  assert.ok(
    Object.values(shown.devices).every((device) => !Object.hasOwn(device as object, 'raw')),
  );
});

test('the same volume is read alike through a pipe', async () => {
  const bytes = readFileSync(fieldFile('stale-tail.raw'));
  assertSays(await run(['verify', '-'], bytes), 0, FOLLOW);
});
