import type { Socket } from 'node:net';
import { abortError, toQemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { RelayFailure } from '../../relay/relay-types.ts';
import { noop } from '../../util/noop.ts';
import { type ReopenedInput, reopenInput } from '../decompress.ts';

/** Outcome of sending a stream. */
export interface Sent {
  /** Bytes of the stream; null where they are not known. */
  bytes: number | null;
  limitedSeconds: number;
  failure: RelayFailure | null;
}

/**
 * Open the compressed file of a stream for a program that sends it to QEMU. The bytes then do not pass through this
 * process, which would take more processor time than QEMU has to spare while it loads them (bench/vm.ts).
 *
 * @param stream - The stream, of which nothing was consumed.
 * @returns Undefined if no program can do that.
 */
export async function openPacked(stream: QemuFile): Promise<ReopenedInput | undefined> {
  if (stream.getPosition > 0) return undefined;
  const input = reopenInput(stream, 'zstd');
  if (input === undefined) return undefined;
  const { canDecompressInto } = await import('../../../adapters/compress/decompress-into.ts');
  if (await canDecompressInto()) return input;
  input.close();
  return undefined;
}

/**
 * Have the program decompress a file into QEMU's socket. Never rejects.
 *
 * @param socket - Closed here.
 */
export async function sendPacked(
  input: ReopenedInput,
  socket: Socket,
  signal: AbortSignal,
): Promise<Sent> {
  try {
    const { decompressInto } = await import('../../../adapters/compress/decompress-into.ts');
    const bytes = await decompressInto(input.fd, socket, signal);
    return { bytes, limitedSeconds: 0, failure: null };
  } catch (failure) {
    const error = toQemuFileError(failure);
    const end = signal.aborted ? null : error.code === 'EPIPE' ? 'to' : 'from';
    return { bytes: null, limitedSeconds: 0, failure: { end, error } };
  }
}

/**
 * Check a compressed file that QEMU did not load.
 *
 * @param check - Rejects with the first fault of the stream.
 * @throws As `check`; `ECANCELED` if the signal aborts.
 */
export async function checkPacked(
  input: ReopenedInput,
  check: (stream: QemuFile) => Promise<void>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const file = await input.open();
  // Without the check, the error is QEMU's.
  if (file === undefined) return;
  const stopFollowing = onAbort(signal, () => {
    file.destroy(abortError(signal as AbortSignal, 'restoreVm'));
  });
  try {
    await check(file);
  } finally {
    stopFollowing();
    await file.close().catch(noop);
  }
}
