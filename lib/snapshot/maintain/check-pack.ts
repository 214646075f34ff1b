import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { damaged } from '../format/damage.ts';
import { sha256 } from '../format/digest.ts';
import { type Codec, decompress } from '../format/encoding/compression.ts';
import { fingerprintPages } from '../format/fingerprint.ts';
import { packKey } from '../format/keys.ts';
import { DIGEST_BYTES, FINGERPRINT_BYTES, MAX_PACK_BYTES } from '../format/limits.ts';
import {
  decodeHead,
  HEAD_START_BYTES,
  headBytesOf,
  type PackHead,
  packBytes,
  pagesOfFrame,
} from '../format/pack.ts';

/**
 * Check the head and the size of a pack.
 *
 * @param bytes - Size of the object.
 * @throws {QemuFileError} (rejects) `EBADMSG` if it is damaged; the error of the storage.
 */
export async function checkHead(
  storage: ObjectStorage,
  digest: string,
  bytes: number,
  options: StorageOptions,
): Promise<PackHead> {
  const key = packKey(digest);
  if (bytes < HEAD_START_BYTES) throw damaged(key, `it has only ${bytes} bytes`);
  const start = await storage.getRange(key, 0, HEAD_START_BYTES, options);
  const length = headBytesOf(start);
  if (length > bytes) throw damaged(key, `it has only ${bytes} bytes`);
  const rest = await storage.getRange(key, start.length, length - start.length, options);
  const head = decodeHead(Buffer.concat([start, rest]), digest);
  if (packBytes(head) !== bytes) {
    throw damaged(key, `it has ${bytes} bytes, and should have ${packBytes(head)}`);
  }
  return head;
}

/**
 * Read a pack whole and check every byte against the digests in its head, and that against its name.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG` if it is damaged; the error of the storage.
 */
export async function readPack(
  storage: ObjectStorage,
  digest: string,
  options: StorageOptions,
): Promise<{ head: PackHead; bytes: Buffer }> {
  const key = packKey(digest);
  const bytes = await storage.get(key, MAX_PACK_BYTES, options);
  if (bytes.length < HEAD_START_BYTES) throw damaged(key, `it has only ${bytes.length} bytes`);
  const head = decodeHead(bytes.subarray(0, headBytesOf(bytes)), digest);
  const { offsets, codecs, digests, fingerprintsDigest } = head;
  if (packBytes(head) !== bytes.length) {
    throw damaged(key, `it has ${bytes.length} bytes, and should have ${packBytes(head)}`);
  }
  for (let frame = 0; frame < codecs.length; frame++) {
    const stored = bytes.subarray(offsets[frame], offsets[frame + 1]);
    const expected = digests.subarray(frame * DIGEST_BYTES, (frame + 1) * DIGEST_BYTES);
    if (!sha256(stored).equals(expected)) {
      throw damaged(key, `frame ${frame} has another SHA-256 than its head says`);
    }
  }
  if (!sha256(bytes.subarray(offsets[codecs.length])).equals(fingerprintsDigest)) {
    throw damaged(key, 'its fingerprints have another SHA-256 than its head says');
  }
  return { head, bytes };
}

/**
 * Check that the frames of a pack decompress to the pages in its list.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG`.
 */
export async function checkPages(digest: string, head: PackHead, bytes: Buffer): Promise<void> {
  const { offsets, codecs, pageSize, pagesPerFrame, fingerprintOffsets } = head;
  const key = packKey(digest);
  const fingerprints = Buffer.alloc(pagesPerFrame * FINGERPRINT_BYTES);
  const list = bytes.subarray(offsets[codecs.length]);
  for (let frame = 0; frame < codecs.length; frame++) {
    const codec = codecs[frame] as Codec;
    const count = pagesOfFrame(head, frame);
    let pages: Uint8Array;
    try {
      const stored = bytes.subarray(offsets[frame], offsets[frame + 1]);
      pages = await decompress({ codec, bytes: stored }, count * pageSize);
    } catch (error) {
      throw damaged(key, `frame ${frame} does not decompress: ${(error as Error).message}`, error);
    }
    const listed = list.subarray(fingerprintOffsets[frame], fingerprintOffsets[frame + 1]);
    if (listed.length === 0) continue;
    const buffer = Buffer.from(pages.buffer, pages.byteOffset, pages.length);
    fingerprintPages(buffer, count, pageSize, fingerprints);
    if (fingerprints.compare(listed, 0, listed.length, 0, listed.length) !== 0) {
      throw damaged(key, `the pages of frame ${frame} do not have the fingerprints in its list`);
    }
  }
}
