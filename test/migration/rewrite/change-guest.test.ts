import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { changeGuest } from '../../../lib/migration/rewrite/change-guest.ts';
import { FieldChanges } from '../../../lib/migration/rewrite/field-changes.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { savedGuestOf } from '../../helpers/guests/saved-guest.ts';
import { workedExample } from '../../helpers/streams/stream-bytes.ts';

const example = (): Promise<SavedGuest> => savedGuestOf(workedExample());

describe('a changed guest', () => {
  test('has other names of blocks, and the same pages', async () => {
    const guest = await example();
    const { pages } = changeGuest(guest, { renameBlocks: new Map([['vga.vram', 'vram']]) });
    assert.deepEqual(
      pages.blocks.map(({ name, usedLength }) => [name, usedLength]),
      [
        ['pc.ram', 0x2000],
        ['vram', 0x1000],
      ],
    );
    const page = Buffer.alloc(4096);
    await pages.read(0, 0, page);
    assert.ok(page.equals(Buffer.alloc(4096, 0xaa)));
    assert.deepEqual([...pages.extents(0)], [{ at: 0, length: 4096 }]);
    assert.equal(guest.pages.blocks[1]?.name, 'vga.vram');
  });

  test('has no VM description where it is dropped', async () => {
    const guest = await example();
    assert.equal(changeGuest(guest, { dropDescription: true }).descriptionText, null);
    assert.ok(changeGuest(guest, {}).descriptionText !== null);
  });

  test('has other fields of devices', async () => {
    const guest = await example();
    const devices = new FieldChanges(['demo.arr[1]=0xffff', 'demo.demo/extra.flag=false']);
    const { sections } = changeGuest(guest, { devices });
    const body = Buffer.from(sections[0]?.body ?? []).toString('hex');
    assert.equal(body, '123456780001ffff0003050a64656d6f2f65787472610000000100');
    assert.equal(guest.sections[0]?.body[6], 0);
  });

  for (const [what, changes, reason] of [
    [
      'a block that it lacks',
      { renameBlocks: new Map([['x', 'y']]) },
      /no RAM block "x"; its blocks are "pc\.ram", "vga\.vram"/,
    ],
    [
      'two blocks of one name',
      { renameBlocks: new Map([['vga.vram', 'pc.ram']]) },
      /two RAM blocks would have the name "pc\.ram"/,
    ],
    ['a device that it lacks', { devices: new FieldChanges(['x.a=1']) }, /no device that "x\.a=1"/],
    ['a field that it lacks', { devices: new FieldChanges(['demo.b=1']) }, /no field "b"/],
  ] as const) {
    test(`is refused for ${what}`, async () => {
      const guest = await example();
      assert.throws(() => changeGuest(guest, changes), { code: 'EINVAL', message: reason });
    });
  }

  test('is refused where the device is not described', async () => {
    const guest = { ...(await example()), descriptionText: null };
    const devices = new FieldChanges(['demo.a=1']);
    assert.throws(() => changeGuest(guest, { devices }), { message: /"demo" was not decoded/ });
  });
});
