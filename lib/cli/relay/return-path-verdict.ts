import { QemuFileError } from '../../contract/errors.ts';
import { RETURN_MESSAGE } from '../../migration/format/wire.ts';
import type { RelayFailure } from '../../relay/relay.ts';

/** Bytes of the message that ends a return path: type, length, and 0 if all went well. */
const SHUT_SIZE = 8;

/**
 * Listens to a return path, for its end: there QEMU's destination says whether it has the guest. Without
 * that word a migration has failed, also where a connection that broke cannot be told from one that ended.
 */
export class ReturnPathVerdict {
  #tail: Buffer = Buffer.alloc(0);

  /** Takes what came back. */
  readonly note = (chunk: Uint8Array): void => {
    this.#tail = Buffer.concat([this.#tail, chunk.subarray(-SHUT_SIZE)]).subarray(-SHUT_SIZE);
  };

  /** Tells why the destination does not have the guest; null if it does, or never said a word. */
  failure(): RelayFailure | null {
    const tail = this.#tail;
    if (tail.length === 0) return null;
    const isShut =
      tail.length === SHUT_SIZE &&
      tail.readUInt16BE(0) === RETURN_MESSAGE.SHUT &&
      tail.readUInt16BE(2) === SHUT_SIZE - 4;
    const value = isShut ? tail.readUInt32BE(4) : undefined;
    if (value === 0) return null;
    const reason =
      value === undefined
        ? 'its return path ended before it said that it has the guest'
        : `it says that it could not load the guest (SHUT ${value})`;
    const advice = 'the guest is still at the source; look at the log of the destination';
    const error = new QemuFileError('EPROTO', `${reason}: ${advice}`, { operation: 'relay' });
    return { end: 'to', error };
  }
}
