/*
 * A decoder belongs to one multifd channel. The payloads of a channel are slices of one compressed stream,
 * which the sender flushes after each of them: all pages of a payload come out when it has been decoded,
 * and decoding it needs the payloads before it.
 */

/** How the payloads of a channel are compressed. */
export type PayloadCompression = 'zlib' | 'zstd';

/** Decodes the payloads of one channel, one at a time and in order. */
export interface PayloadDecoder {
  /**
   * Decode the next payload. The previous call must have settled. A decoder that has failed rejects every
   * later call with the same error.
   *
   * @param payload - Must not change before the promise settles.
   * @param size - Number of bytes that the payload must decode to.
   * @returns The decoded bytes, valid until the next call.
   * @throws Error (rejects) whose message is the fault of the payload, as a clause.
   */
  decode(payload: Uint8Array, size: number): Promise<Uint8Array>;
  /** Release the decoder's memory and threads. A pending `decode` is rejected. */
  close(): void;
}
