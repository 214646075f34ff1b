import { QemuFileError } from '../../contract/errors.ts';
import { RETURN_MESSAGE } from '../../migration/format/wire.ts';
import type { RelayFailure } from '../../relay/relay-types.ts';

/** Bytes of `SHUT`, the last message of a return path: type, length, and a value that is 0 after a success. */
const SHUT_BYTES = 8;

/**
 * Follows a return path to its end, where the destination reports with `SHUT` whether it has the guest. A return
 * path that ends without `SHUT` means a failed migration, even where a connection that broke looks like one that
 * ended in order.
 */
export class ReturnPathVerdict {
  #tail: Buffer = Buffer.alloc(0);

  /** Take the next bytes of the return path. */
  readonly observe = (chunk: Uint8Array): void => {
    this.#tail = Buffer.concat([this.#tail, chunk.subarray(-SHUT_BYTES)]).subarray(-SHUT_BYTES);
  };

  /** Return why the destination does not have the guest; null if it does, or if it never sent a byte. */
  failure(): RelayFailure | null {
    const tail = this.#tail;
    if (tail.length === 0) return null;
    const isShut =
      tail.length === SHUT_BYTES &&
      tail.readUInt16BE(0) === RETURN_MESSAGE.SHUT &&
      tail.readUInt16BE(2) === SHUT_BYTES - 4;
    const value = isShut ? tail.readUInt32BE(4) : undefined;
    if (value === 0) return null;
    const reason =
      value === undefined
        ? 'the return path ended before the destination confirmed that it has the guest (SHUT 0)'
        : `the destination reports that it could not load the guest (SHUT ${value})`;
    const advice = 'the guest is still at the source; look at the log of the destination';
    const error = new QemuFileError('EPROTO', `${reason}: ${advice}`, { operation: 'relay' });
    return { end: 'to', error };
  }
}
