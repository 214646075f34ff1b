// A description that was found at the end of the file is not parsed again where the reader finds the same text.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  findVmDescription,
  type KnownDescription,
} from '../../../lib/migration/devices/find-vm-description.ts';
import { readStream } from '../../helpers/reading/read-stream.ts';
import {
  blockList,
  configuration,
  end,
  eos,
  header,
  piece,
  section,
  stream,
  vmDescription,
} from '../../helpers/streams/stream-bytes.ts';

const field = { name: 'count', type: 'uint16', size: 2 };
const sound = { name: 'sound', instance_id: 0, vmsd_name: 'sound', version: 1, fields: [field] };
const odd = { ...sound, name: 'odd', fields: [{ ...field, size: 'large' }] };

function streamWith(...devices: object[]): Buffer {
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 4096]), eos),
    piece('end', 2, eos),
    section('full', 3, ['odd', 0, 1], Buffer.of(1, 2)),
    section('full', 4, ['sound', 0, 1], Buffer.of(3, 4)),
    end,
    vmDescription({ page_size: 4096, devices }),
  );
}

/** Read a stream; return its description, the decoded values, and its warnings. */
async function read(
  bytes: Buffer,
  description: KnownDescription,
): Promise<{ description: object; counts: unknown[]; warnings: string[] }> {
  const { events } = await readStream([bytes], { description, onFault: () => undefined });
  const result = { description: {}, counts: [] as unknown[], warnings: [] as string[] };
  for (const event of events) {
    if (event.type === 'vmDescription') result.description = event.description;
    if (event.type === 'device') result.counts.push(event.state?.count);
    if (event.type === 'warning') result.warnings.push(event.message.replace(/.*devices/, ''));
  }
  return result;
}

describe('a description that is known', () => {
  const bytes = streamWith(odd, sound);
  const known = findVmDescription(bytes, 0) as KnownDescription;

  test('is used where the same text is found, with its warnings', async () => {
    const { description, counts, warnings } = await read(bytes, known);
    assert.equal(description, known.description);
    assert.deepEqual(counts, [undefined, 0x0304]);
    assert.deepEqual(warnings, [
      '[0].fields[0].size is a string, not an integer; the device is not decoded',
    ]);
  });

  test('is not used where the text differs in one byte', async () => {
    const other = Buffer.from(bytes);
    other.write('counT', other.lastIndexOf('count'));
    const { description, counts } = await read(other, known);
    assert.notEqual(description, known.description);
    assert.deepEqual(counts, [undefined, undefined]);
  });

  test('is not used where the same text has another offset', async () => {
    const { description, counts } = await read(bytes, { ...known, offset: known.offset - 1 });
    assert.notEqual(description, known.description);
    assert.deepEqual(counts, [undefined, 0x0304]);
  });
});
