import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { askDestination, checkLazy } from '../../../lib/vm/lazy/check-lazy.ts';
import { bareGuest } from '../../helpers/guests/saved-guest.ts';
import { connectFake } from '../fake-monitor.ts';
import { fakeSource, PAGE } from './fake-source.ts';

test('a guest whose memory is not in its stream is refused', async () => {
  const guest = bareGuest(fakeSource([['pc.ram', 4, []]]), {
    configuration: {
      machine: 'pc-i440fx-7.2',
      targetPageBits: null,
      capabilities: ['x-ignore-shared'],
      uuid: null,
    },
  });
  const { qmp } = await connectFake(() => [{ capability: 'postcopy-ram', state: false }]);
  await assert.rejects(checkLazy(askDestination(qmp), guest, true), {
    code: 'ENOTSUP',
    message: /saved with x-ignore-shared, so its memory is not in the stream/,
  });
  await qmp.close();
});

const MIB = 2 ** 20;

/** A guest with these blocks: name and pages. */
function guestOf(...blocks: readonly (readonly [name: string, pages: number])[]): SavedGuest {
  return bareGuest(fakeSource(blocks.map(([name, pages]) => [name, pages, []])));
}

/** Checks a guest of these blocks against a QEMU that has them in pages of these sizes, as QEMU 10.0 prints them. */
async function check(
  ...blocks: readonly [name: string, pages: number, hostPage: string][]
): ReturnType<typeof checkLazy> {
  const rows = blocks.map(([name, pages, hostPage]) => {
    const length = `0x${(pages * PAGE).toString(16).padStart(16, '0')}`;
    return `${name.padStart(24)}  ${hostPage.padStart(7)}  ${'0x'.padEnd(18, '0')} ${length} ${length} 0x00007f0000000000  rw\n`;
  });
  const title =
    '              Block Name    PSize              Offset               Used              Total                HVA  RO\n';
  const { qmp } = await connectFake(({ execute, arguments: args }) => {
    if (execute === 'query-migrate-capabilities') {
      return [{ capability: 'postcopy-ram', state: false }];
    }
    if (execute === 'query-migrate-parameters') return {};
    if (execute === 'query-memdev') return [];
    if (execute !== 'human-monitor-command') {
      return new Error(`the command ${execute} has not been found`);
    }
    return args['command-line'] === 'info ramblock' ? title + rows.join('') : '';
  });
  try {
    return await checkLazy(
      askDestination(qmp),
      guestOf(...blocks.map(([name, pages]) => [name, pages] as const)),
      true,
    );
  } finally {
    await qmp.close();
  }
}

test('each block has the page size that QEMU reports for it, and the smallest one is that of the host', async () => {
  const { memory, basePageSize } = await check(['ram', 512, '2 MiB'], ['rom', 1, '4 KiB']);
  assert.deepEqual(
    memory.blocks.map(({ hostPageSize }) => hostPageSize),
    [2 * MIB, PAGE],
  );
  assert.equal(basePageSize, PAGE);
});

test('where all blocks are in huge pages, the host has pages like those of the guest', async () => {
  const { memory, basePageSize } = await check(['ram', 512, '2 MiB'], ['more', 1024, '2 MiB']);
  assert.deepEqual(
    memory.blocks.map(({ hostPageSize }) => hostPageSize),
    [2 * MIB, 2 * MIB],
  );
  assert.equal(basePageSize, PAGE);
});

test('a block that does not fill its pages is refused by name', async () => {
  await assert.rejects(check(['ram', 512, '2 MiB'], ['odd', 513, '2 MiB']), {
    code: 'ENOTSUP',
    message: /RAM block "odd" of 2101248 bytes is not a whole number .* 2097152 bytes/,
  });
});

test('a block in pages smaller than those of the guest is refused by name', async () => {
  await assert.rejects(check(['ram', 512, '4 KiB'], ['small', 8, '1 KiB']), {
    code: 'ENOTSUP',
    message: /RAM block "small": the guest has pages of 4096 bytes, the destination of 1024/,
  });
});

/** Checks a guest against a QEMU that has these capabilities. */
async function checkCapabilities(
  capabilities: Readonly<Record<string, boolean>>,
  guest: SavedGuest = guestOf(['ram', 4]),
): ReturnType<typeof checkLazy> {
  const list = Object.entries(capabilities).map(([capability, state]) => ({ capability, state }));
  const { qmp } = await connectFake(({ execute }) => {
    if (execute === 'query-migrate-capabilities') return list;
    return new Error(`the command ${execute} has not been found`);
  });
  try {
    return await checkLazy(askDestination(qmp), guest, true);
  } finally {
    await qmp.close();
  }
}

for (const name of ['multifd', 'x-ignore-shared', 'mapped-ram']) {
  test(`a destination with ${name} on is refused, with the command that switches it off`, async () => {
    await assert.rejects(checkCapabilities({ 'postcopy-ram': false, [name]: true }), {
      code: 'ENOTSUP',
      message: new RegExp(
        `the migration capability ${name} is on at the destination: .*"migrate_set_capability ${name} off"`,
      ),
    });
  });
}

test('a destination without postcopy is refused, with the version that has it', async () => {
  await assert.rejects(checkCapabilities({}), {
    code: 'ENOTSUP',
    message: /does not have the migration capability postcopy-ram; use QEMU 2\.6 or later on Linux/,
  });
});

for (const { what, kinds, name, reason } of [
  {
    what: 'with a VFIO device',
    name: '0000:00:05.0/vfio',
    kinds: ['full'],
    reason: /does not migrate VFIO devices with postcopy; restore without --lazy/,
  },
  {
    what: 'whose dirty bitmaps end after its devices',
    name: 'dirty-bitmap',
    kinds: ['start'],
    reason: /"dirty-bitmap" has to end before the guest runs.*; restore without --lazy/,
  },
] as const) {
  test(`a guest ${what} is refused by name`, async () => {
    const section = { sectionId: 9, name, instanceId: 0, versionId: 1, body: Buffer.of() };
    const device = { ...section, kind: 'full', sectionId: 10, name: 'timer' } as const;
    const guest = {
      ...guestOf(['ram', 4]),
      sections: [...kinds.map((kind) => ({ ...section, kind })), device],
    };
    await assert.rejects(checkCapabilities({ 'postcopy-ram': false }, guest), {
      code: 'ENOTSUP',
      message: reason,
    });
  });
}
