import fs from 'node:fs';
import net from 'node:net';
import { checkString, checkWord } from '../../lib/contract/argument-error.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { Direction, OpsOf } from '../../lib/contract/ops.ts';
import { waitFor } from '../../lib/contract/wait-for.ts';
import { closeFd, openFile } from '../file/fs-promises.ts';
import { Backoff } from '../shared/backoff.ts';
import { readPipeOps, writePipeOps } from './pipe-ends.ts';

const { O_NONBLOCK, O_RDONLY, O_WRONLY } = fs.constants;

/** Delays between attempts to open a FIFO without a reader, in milliseconds. The system reports no reader's arrival. */
const FIRST_ATTEMPT_MS = 5;
const MAX_ATTEMPT_MS = 100;

/** Options of `openFifo`. */
export interface OpenFifoOptions<D extends Direction = Direction> {
  /** Which end is opened. */
  direction: D;
  /** Aborts the opening, and with it the wait for a reader. */
  signal?: AbortSignal | undefined;
}

/**
 * Open one end of a FIFO. Neither end blocks a thread of the pool while it waits for the other.
 *
 * The reading end opens at once. Its first read waits for a writer, and the file ends when the last writer has
 * closed. (On systems other than Linux the first read may report the end before a writer has opened.) The
 * writing end opens when there is a reader, which is checked at least every 100 ms. A write after the reader has
 * closed fails with `EPIPE`.
 *
 * @param path - The FIFO.
 * @param options - `direction`, `signal`.
 * @throws {QemuFileError} (rejects) `ENOTSUP` not a FIFO; `ECANCELED` the signal; otherwise the system's own
 *   code (`ENOENT`, `EACCES` …).
 */
export async function openFifo<D extends Direction>(
  path: string,
  options: OpenFifoOptions<D>,
): Promise<OpsOf<D>> {
  checkString('openFifo', 'path', path);
  checkWord('openFifo', 'direction', ['read', 'write'], options?.direction);
  const { direction, signal } = options;
  try {
    // Checked before the opening, because opening another kind of file may have an effect on it.
    checkFifo(path, await fs.promises.stat(path));
    const fd =
      direction === 'read'
        ? await openFile(path, O_RDONLY | O_NONBLOCK, 0)
        : await openWriter(path, signal);
    try {
      if (signal?.aborted) throw abortError(signal, 'open');
      checkFifo(path, fs.fstatSync(fd));
      return pipeFdOps(fd, direction);
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
  } catch (error) {
    throw toQemuFileError(error, { operation: 'open' });
  }
}

/** Make a backend of the descriptor of a pipe. The backend owns the descriptor from then on. */
export function pipeFdOps<D extends Direction>(fd: number, direction: D): OpsOf<D> {
  const ops =
    direction === 'read'
      ? readPipeOps(new net.Socket({ fd, readable: true, writable: false }), fd, false)
      : writePipeOps(new net.Socket({ fd, readable: false, writable: true }), fd, false);
  return ops as OpsOf<D>;
}

async function openWriter(path: string, signal: AbortSignal | undefined): Promise<number> {
  const backoff = new Backoff(FIRST_ATTEMPT_MS, MAX_ATTEMPT_MS);
  for (;;) {
    if (signal?.aborted) throw abortError(signal, 'open');
    try {
      return await openFile(path, O_WRONLY | O_NONBLOCK, 0);
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENXIO') throw error;
    }
    await sleep(backoff.next(), signal);
  }
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return waitFor<void>(
    (resolve) => {
      const timer = setTimeout(resolve, ms);
      return () => clearTimeout(timer);
    },
    { signal, operation: 'open' },
  );
}

function checkFifo(path: string, stats: fs.Stats): void {
  if (stats.isFIFO()) return;
  throw new QemuFileError('ENOTSUP', `${path} is not a FIFO`, { operation: 'open' });
}
