import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { decodeState } from '../../../lib/migration/devices/state-decoder.ts';
import { parseVmDescription } from '../../../lib/migration/devices/vm-description.ts';
import type { DeviceDescription } from '../../../lib/migration/format/device-types.ts';
import type { DeviceSection, Section } from '../../../lib/migration/format/events.ts';
import { FieldChanges } from '../../../lib/migration/rewrite/field-changes.ts';

const json = {
  page_size: 4096,
  devices: [
    {
      name: 'd',
      instance_id: 0,
      version: 1,
      fields: [
        { name: 'a', type: 'uint8', size: 1 },
        { name: 'b', type: 'uint16', size: 2 },
      ],
    },
  ],
};
const description = parseVmDescription(Buffer.from(JSON.stringify(json)), 0)
  .devices[0] as DeviceDescription;

function device(name: string, instanceId = 0, sectionId = 5): DeviceSection {
  const body = Buffer.from('010203', 'hex');
  const section: Section = {
    sectionId,
    name,
    instanceId,
    versionId: 1,
    kind: 'full',
    offset: 0,
    bytes: 0,
  };
  const state = decodeState(description, body, { bodyOffset: 0, section });
  return { section, bodyOffset: 0, body, state, description };
}

const plain = (bytes: Uint8Array | null): string | null =>
  bytes === null ? null : Buffer.from(bytes).toString('hex');

describe('changes of fields', () => {
  test('are made in the device that they name, together, and the others stay', () => {
    const changes = new FieldChanges(['0000:00:02.0/nic.v2.a=255', '0000:00:02.0/nic.v2.b=0x1']);
    assert.equal(changes.edit(device('0000:00:02.0/nic')), null);
    assert.equal(plain(changes.edit(device('0000:00:02.0/nic.v2'))), 'ff0001');
    assert.equal(changes.edit(device('other')), null);
    changes.finish();
  });

  test('name an instance, or a section of a name that came before', () => {
    const changes = new FieldChanges(['ide/1.a=9', 'ide/1 (section 7).a=8']);
    assert.equal(changes.edit(device('ide')), null);
    assert.equal(plain(changes.edit(device('ide', 1, 6))), '090203');
    assert.equal(plain(changes.edit(device('ide', 1, 7))), '080203');
    changes.finish();
  });

  test('may hold an equals sign in the name of the device', () => {
    const changes = new FieldChanges(['id=x.a=3']);
    assert.equal(plain(changes.edit(device('id=x'))), '030203');
    changes.finish();
  });
});

describe('changes are refused', () => {
  for (const text of ['', 'a', 'a.b', 'a=1', '=1']) {
    test(`in the form ${JSON.stringify(text)}`, () => {
      assert.throws(() => new FieldChanges([text]), {
        code: 'EINVAL',
        reason: `"${text}" is not DEVICE.FIELD=VALUE`,
      });
    });
  }

  test('of a device that does not come', () => {
    const changes = new FieldChanges(['x.a=1']);
    changes.edit(device('d'));
    changes.edit(device('e', 2));
    assert.throws(() => changes.finish(), {
      code: 'EINVAL',
      reason: 'the stream has no device that "x.a=1" begins with; its devices are d, e/2',
    });
  });

  test('for the reason that the device with the longest name has', () => {
    for (const names of [
      ['d', 'd.e'],
      ['d.e', 'd'],
    ]) {
      const changes = new FieldChanges(['d.e.a=256']);
      for (const name of names) assert.equal(changes.edit(device(name)), null);
      assert.throws(() => changes.finish(), {
        code: 'ERANGE',
        reason: 'd.e: "a" is uint8, 0 to 255: 256 does not fit',
      });
    }
  });

  test('of a device that was not decoded', () => {
    const changes = new FieldChanges(['d.a=1']);
    changes.edit({ ...device('d'), state: null, description: null });
    assert.throws(() => changes.finish(), {
      code: 'EINVAL',
      reason: '"d" was not decoded, so none of its fields can be set',
    });
  });
});
