import { execFile } from 'node:child_process';
import type { Socket } from 'node:net';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { onAbort } from '../../lib/contract/wait-for.ts';
import { ExternalTool } from './external-tool.ts';

/** Program of util-linux that sets which signal a program receives when the process that started it ends. */
const WITH_PARENT = ['setpriv', '--pdeathsig', 'KILL'] as const;

/** The line of `zstd -v` about the bytes that it has written. */
const WRITTEN = /: (\d+) bytes/;

/** The system's words for a write after the peer has stopped reading; only the output is a socket. */
const PEER_IS_GONE = /Broken pipe|Connection reset by peer/;

/** Return whether `decompressInto` can be used: the system can end a program together with this process. */
export function canDecompressInto(): Promise<boolean> {
  const [program, ...args] = WITH_PARENT;
  return new Promise((resolve) => {
    execFile(program, [...args, 'true'], (error) => resolve(error === null));
  });
}

/**
 * Have the system's `zstd` decompress from a descriptor into a socket, which saves four copies of every byte. It is
 * killed when this process ends, so that the peer never takes what it has received for the whole.
 *
 * @param input - An open descriptor; it stays open.
 * @param output - A connected socket that nothing was read from or written to. It is closed here at once, and in the
 *   program when that ends.
 * @param signal - Ends the program.
 * @returns Bytes that were written; null if `zstd` does not report them.
 * @throws {QemuFileError} (rejects) `EPIPE` if the peer stopped reading before the end; `EIO` if `zstd` fails, with its
 *   standard error; `ECANCELED` if the signal aborts; the system's own code if it cannot start another process.
 */
export async function decompressInto(
  input: number,
  output: Socket,
  signal?: AbortSignal,
): Promise<number | null> {
  const operation = 'decompress';
  let tool: ExternalTool;
  try {
    if (signal?.aborted) throw abortError(signal, operation);
    const descriptors = { stdin: input, stdout: output };
    tool = new ExternalTool('zstd', ['-dcv'], operation, descriptors, WITH_PARENT);
  } finally {
    output.destroy();
  }
  const { end } = tool;
  const stopFollowing = onAbort(signal, () => void end.force());
  try {
    await end.ended;
    if (signal?.aborted) throw abortError(signal, operation);
    const failure = tool.failure(undefined, 'install zstd');
    if (end.signalCode === 'SIGPIPE' || (failure && PEER_IS_GONE.test(end.stderr))) {
      throw new QemuFileError('EPIPE', 'the peer stopped reading', { operation, cause: failure });
    }
    if (failure !== undefined) throw failure;
    const digits = WRITTEN.exec(end.stderr)?.[1];
    return digits === undefined ? null : Number(digits);
  } finally {
    stopFollowing();
    await tool.close();
  }
}
