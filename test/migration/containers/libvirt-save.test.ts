import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  parseLibvirtHeader,
  readLibvirtSave,
} from '../../../lib/migration/containers/libvirt-save.ts';
import type { StreamFault } from '../../../lib/migration/format/stream-error.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { cutAt } from '../../helpers/bytes.ts';
import { header as streamHeader } from '../../helpers/streams/stream-bytes.ts';
import { Source } from '../../helpers/transports/backends.ts';

interface HeaderParts {
  magic?: string;
  isBig?: boolean;
  version?: number;
  dataLength?: number;
  wasRunning?: number;
  format?: number;
  cookieOffset?: number;
}

const XML = '<domain type="kvm"><name>größe</name></domain>';
const COOKIE = '<cookie/>';

function header(parts: HeaderParts = {}): Buffer {
  const bytes = Buffer.alloc(92);
  bytes.write(parts.magic ?? 'LibvirtQemudSave', 'latin1');
  const fields = [
    parts.version ?? 2,
    parts.dataLength ?? 100,
    parts.wasRunning ?? 0,
    parts.format ?? 0,
    parts.cookieOffset ?? 0,
  ];
  for (const [i, value] of fields.entries()) {
    if (parts.isBig === true) bytes.writeUInt32BE(value, 16 + i * 4);
    else bytes.writeUInt32LE(value, 16 + i * 4);
  }
  return bytes;
}

/** An image with a stream of 8 bytes. */
function image(texts: readonly string[], parts: HeaderParts = {}, padding = 10): Buffer {
  const data = Buffer.concat([
    ...texts.map((text) => Buffer.from(`${text}\0`)),
    Buffer.alloc(padding),
  ]);
  return Buffer.concat([header({ dataLength: data.length, ...parts }), data, streamHeader]);
}

function fails(parts: HeaderParts, fault: StreamFault, position: number, said: RegExp): void {
  assert.throws(() => parseLibvirtHeader(header(parts), 1000), {
    fault,
    position: 1000 + position,
    message: said,
  });
}

describe('the header of a libvirt save image', () => {
  for (const isBig of [false, true]) {
    test(`is read as a ${isBig ? 'big' : 'little'}-endian host wrote it`, () => {
      const parts = { isBig, dataLength: 0x1234, wasRunning: 1, format: 3, cookieOffset: 0x234 };
      assert.deepEqual(parseLibvirtHeader(header(parts)), {
        byteOrder: isBig ? 'big' : 'little',
        version: 2,
        dataLength: 0x1234,
        wasRunning: true,
        format: 'xz',
        cookieOffset: 0x234,
      });
    });
  }

  test('names each format', () => {
    const names = [0, 1, 2, 3, 4, 5, 6].map(
      (format) => parseLibvirtHeader(header({ format })).format,
    );
    assert.deepEqual(names, ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse']);
  });

  test('of version 1 says nothing about the format', () => {
    const { version, format } = parseLibvirtHeader(header({ version: 1, format: 3 }));
    assert.deepEqual({ version, format }, { version: 1, format: 'raw' });
  });

  test('is refused if the image was never completed', () => {
    fails({ magic: 'LibvirtQemudPart' }, 'truncated', 0, /incomplete.*interrupted/);
  });

  test('is refused if anything in it cannot be, at the field that is wrong', () => {
    fails({ magic: 'LibvirtQemudWhat' }, 'corrupt', 0, /not a libvirt save image/);
    fails({ version: 3 }, 'unsupported', 16, /version/);
    fails({ version: 0 }, 'unsupported', 16, /version 0/);
    fails({ version: 3, isBig: true }, 'unsupported', 16, /version 3/);
    fails({ dataLength: 0 }, 'corrupt', 20, /no domain XML/);
    fails({ dataLength: 64 * 2 ** 20 + 1 }, 'corrupt', 20, /67108865 bytes/);
    fails({ format: 7 }, 'unsupported', 28, /format 7/);
    fails({ cookieOffset: 101 }, 'corrupt', 32, /101 of 100/);
  });

  test('can be as large as the bounds allow', () => {
    const { dataLength } = parseLibvirtHeader(header({ dataLength: 64 * 2 ** 20 }));
    assert.equal(dataLength, 67108864);
    assert.equal(parseLibvirtHeader(header({ cookieOffset: 100 })).cookieOffset, 100);
  });
});

describe('a libvirt save image', () => {
  test('yields XML, cookie and the stream, at every split into chunks', async () => {
    const cookieOffset = Buffer.byteLength(XML) + 1;
    const bytes = image([XML, COOKIE], { cookieOffset, wasRunning: 1 });
    for (let at = 1; at < bytes.length; at++) {
      const file = new QemuFile(new Source(cutAt(bytes, [at])));
      const { xml, cookie, wasRunning, format } = await readLibvirtSave(file);
      assert.deepEqual(
        { xml, cookie, wasRunning, format },
        { xml: XML, cookie: COOKIE, wasRunning: true, format: 'raw' },
      );
      assert.equal(file.getPosition, bytes.length - 8);
      assert.deepEqual(await file.readBuffer(8), streamHeader);
    }
  });

  test('can have no cookie', async () => {
    const { xml, cookie } = await readLibvirtSave(new QemuFile(new Source([image([XML])])));
    assert.deepEqual({ xml, cookie }, { xml: XML, cookie: null });
    const cookieOffset = Buffer.byteLength(XML) + 1;
    const empty = image([XML], { cookieOffset });
    assert.equal((await readLibvirtSave(new QemuFile(new Source([empty])))).cookie, null);
  });

  test('need not end its text with NUL', async () => {
    const bytes = image([XML], { dataLength: Buffer.byteLength(XML) });
    const { xml } = await readLibvirtSave(new QemuFile(new Source([bytes])));
    assert.equal(xml, XML);
  });

  test('is truncated at every place before the stream', async () => {
    const bytes = image([XML]);
    for (let length = 0; length < bytes.length - 8; length++) {
      const file = new QemuFile(new Source([bytes.subarray(0, length)]));
      await assert.rejects(readLibvirtSave(file), { fault: 'truncated' });
    }
  });

  test('does not have room made for what only its header says', async () => {
    const file = new QemuFile(new Source([image([XML], { dataLength: 64 * 2 ** 20 })]));
    const before = process.memoryUsage().arrayBuffers;
    await assert.rejects(readLibvirtSave(file), { fault: 'truncated' });
    assert.ok(process.memoryUsage().arrayBuffers - before < 8 * 2 ** 20);
  });
});
