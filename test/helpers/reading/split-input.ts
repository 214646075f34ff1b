import assert from 'node:assert/strict';
import { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { StreamInput } from '../../../lib/migration/format/stream-input.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { cutAt, piecesOf } from '../bytes.ts';
import { Source } from '../transports/backends.ts';

/** Return an input over bytes that arrive in the given pieces. */
export function inputOver(...pieces: readonly Uint8Array[]): StreamInput {
  return new StreamInput(new QemuFile(new Source(pieces, { answering: 'async', hands: true })));
}

/** Return all places between bytes. */
export function everyPlace(bytes: Uint8Array): number[] {
  return Array.from({ length: bytes.length }, (_, place) => place);
}

/**
 * Read bytes whole, one by one, and cut in two at each of the places. The results must be equal, and all
 * bytes must be consumed.
 */
export async function readSplit<T>(
  bytes: Uint8Array,
  read: (input: StreamInput) => Promise<T>,
  places: readonly number[] = everyPlace(bytes),
): Promise<T> {
  const readAll = async (pieces: readonly Uint8Array[]): Promise<T> => {
    const input = inputOver(...pieces);
    const result = await read(input);
    assert.equal(input.position, bytes.length, 'bytes used up');
    return result;
  };
  const whole = await readAll([bytes]);
  for (const place of places) {
    assert.deepEqual(await readAll(cutAt(bytes, [place])), whole, `parted at ${place}`);
  }
  if (bytes.length < 4096) assert.deepEqual(await readAll(piecesOf(bytes, 1)), whole, 'bytewise');
  return whole;
}

/** Read bytes truncated at each of the places; each time the fault must name the place. */
export async function assertTruncated(
  bytes: Uint8Array,
  read: (input: StreamInput) => Promise<unknown>,
  places: readonly number[] = everyPlace(bytes),
): Promise<void> {
  for (const place of places) {
    const error = await faultOf(read(inputOver(bytes.subarray(0, place))));
    assert.equal(error.fault, 'truncated', `cut at ${place}: ${error.message}`);
    assert.ok((error.position ?? -1) >= 0 && (error.position ?? 0) <= place, error.message);
    assert.match(error.reason, /^the stream ends inside /);
  }
}

/** Return the stream fault that a promise rejects with. */
export async function faultOf(promise: Promise<unknown>): Promise<MigrationStreamError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MigrationStreamError) return error;
    throw error;
  }
  throw new Error('it was not rejected');
}

/** Check kind, offset and reason of a fault. */
export async function assertFault(
  promise: Promise<unknown>,
  fault: MigrationStreamError['fault'],
  position: number,
  reason: RegExp,
): Promise<void> {
  const error = await faultOf(promise);
  assert.match(error.reason, reason);
  assert.deepEqual([error.fault, error.position], [fault, position], error.message);
}
