import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { test } from 'node:test';
import { DIAGNOSTICS_CHANNELS } from '../../../lib/index.ts';
import { MigrationReader } from '../../../lib/migration/index.ts';

/** Header, one device section with a footer, end mark, and no VM description. */
const STREAM = Buffer.from(
  '5145564d0000000304000000050364657600000001000000020011227e0000000500',
  'hex',
);

test('each section is published on the diagnostics channel with its header', async () => {
  const received: unknown[] = [];
  const listener = (message: unknown): void => void received.push(message);
  subscribe(DIAGNOSTICS_CHANNELS.migrationSection, listener);
  try {
    const source = (async function* () {
      yield Buffer.concat([STREAM.subarray(0, 8), CONFIGURATION, STREAM.subarray(8)]);
    })();
    for await (const event of new MigrationReader(source)) void event;
  } finally {
    unsubscribe(DIAGNOSTICS_CHANNELS.migrationSection, listener);
  }
  assert.deepEqual(received, [
    { type: 'SECTION_FULL', sectionId: 5, name: 'dev', instanceId: 1, versionId: 2, position: 14 },
  ]);
});

/** Machine type "m". */
const CONFIGURATION = Buffer.from('07000000016d', 'hex');
