// Only the end of compressed data shows that it was damaged. A stream whose source asked for a return path ends,
// for a reader, after its VM description; a compressed one must be read on.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import zlib, { gunzipSync, gzipSync } from 'node:zlib';
import { memoryOps } from '../../../adapters/memory/memory.ts';
import { openScratchStore } from '../../../lib/extract/scratch-store.ts';
import { type Unwrapped, unwrap } from '../../../lib/migration/containers/unwrap.ts';
import { copyStream } from '../../../lib/migration/rewrite/copy-stream.ts';
import { collectSavedGuest } from '../../../lib/migration/saved-guest/collect-saved-guest.ts';
import { verifyStream } from '../../../lib/migration/verify/verify.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';

const STREAM = gunzipSync(
  readFileSync(new URL('../../fixtures/return-path.mig.gz', import.meta.url)),
);

// Node has zstd from 22.15 on; its frames get a checksum, as those of `zstd` and `save --compress zstd` have.
const { zstdCompressSync, constants } = zlib as typeof zlib & {
  zstdCompressSync?: (bytes: Uint8Array, options: object) => Buffer;
  constants: { ZSTD_c_checksumFlag?: number };
};

const FORMATS = [
  { format: 'gzip', packed: gzipSync(STREAM), checksumFromEnd: 8 },
  ...(zstdCompressSync === undefined
    ? []
    : [
        {
          format: 'zstd',
          packed: zstdCompressSync(STREAM, {
            params: { [constants.ZSTD_c_checksumFlag as number]: 1 },
          }),
          checksumFromEnd: 4,
        },
      ]),
];

function unpacked(packed: Uint8Array): Promise<Unwrapped> {
  return unwrap(new QemuFile(memoryOps(packed), { writable: false }));
}

async function faultsOf(packed: Uint8Array): Promise<string[]> {
  const { file } = await unpacked(packed);
  const { faults } = await verifyStream(file);
  await file.close().catch(() => {});
  return faults.map(({ fault }) => fault);
}

for (const { format, packed, checksumFromEnd } of FORMATS) {
  describe(`a stream with a return path in ${format}`, () => {
    test('is valid if the compressed data is whole', async () => {
      assert.deepEqual(await faultsOf(packed), []);
      assert.deepEqual(await faultsOf(Buffer.concat([packed, Buffer.alloc(100)])), []);
    });

    test('is corrupt if only its checksum shows a fault', async () => {
      const damaged = Buffer.from(packed);
      const at = damaged.length - checksumFromEnd;
      damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
      assert.deepEqual(await faultsOf(damaged), ['corrupt']);
    });

    test('is truncated if bytes of its checksum are missing', async () => {
      for (const missing of [1, checksumFromEnd]) {
        assert.deepEqual(await faultsOf(packed.subarray(0, -missing)), ['truncated']);
      }
    });

    test('is not written again or collected if it is truncated', async () => {
      const damaged = packed.subarray(0, -1);
      const truncated = { fault: 'truncated' };
      const copied = await unpacked(damaged);
      await assert.rejects(copyStream(copied.file, new QemuFile(memoryOps())), truncated);
      const collected = await unpacked(damaged);
      using scratch = openScratchStore();
      await assert.rejects(collectSavedGuest(collected.file, { store: scratch.store }), truncated);
      for (const { file } of [copied, collected]) await file.close().catch(() => {});
    });

    test('is corrupt if other bytes follow it', async () => {
      assert.deepEqual(await faultsOf(Buffer.concat([packed, Buffer.from('other bytes')])), [
        'corrupt',
      ]);
    });
  });
}
