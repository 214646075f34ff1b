import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { checkLazy } from '../../../lib/vm/lazy/check-lazy.ts';
import { connectFake } from '../fake-monitor.ts';
import { fakeSource } from './fake-source.ts';

test('a guest whose memory is not in its stream is refused', async () => {
  const guest: SavedGuest = {
    configuration: {
      machine: 'pc-i440fx-7.2',
      targetPageBits: null,
      capabilities: ['x-ignore-shared'],
      uuid: null,
    },
    configurationBytes: null,
    hasFooters: true,
    ram: { sectionId: 2, instanceId: 0, versionId: 4 },
    sections: [],
    descriptionText: null,
    pages: fakeSource([['pc.ram', 4, []]]),
    close: () => Promise.resolve(),
  };
  const { qmp } = await connectFake(() => [{ capability: 'postcopy-ram', state: false }]);
  await assert.rejects(checkLazy(qmp, guest, true), {
    code: 'ENOTSUP',
    message: /saved with x-ignore-shared, so its memory is not in the stream/,
  });
  await qmp.close();
});
