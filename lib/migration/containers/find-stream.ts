import type { QemuFile } from '../../qemu-file/qemu-file.ts';

/** The first bytes of a stream: magic and version. */
export const STREAM_START: Buffer = Buffer.from('QEVM\0\0\0\x03', 'latin1');
/** Bytes in which a stream is searched if the file does not begin with one. */
const MAX_SEARCH_BYTES = 1_048_576;
const PEEK_BYTES = 32_768;

/**
 * Search for the start of a stream, consuming what precedes it. Return its distance, or -1 without one.
 *
 * @param waits - Whether to wait for bytes that have not arrived.
 */
export async function findStream(file: QemuFile, waits: boolean): Promise<number> {
  for (let passed = 0; passed < MAX_SEARCH_BYTES; ) {
    // An error further on must not replace the one that is reported.
    if (waits) await file.fillOrEnd(STREAM_START.length).catch(() => 0);
    if (file.destroyed) return -1;
    const view = file.peekBuffer(Math.min(file.lookedAhead, PEEK_BYTES));
    const at = Buffer.from(view.buffer, view.byteOffset, view.length).indexOf(STREAM_START);
    if (at >= 0) return passed + at;
    // The last bytes that have arrived may be part of the magic.
    const step = view.length - STREAM_START.length + 1;
    if (step <= 0) return -1;
    file.skip(step);
    passed += step;
  }
  return -1;
}
