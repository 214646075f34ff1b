import fs from 'node:fs';
import net from 'node:net';
import { abortError, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { closeFd, openFile } from '../file/fs-promises.ts';
import { Backoff } from '../shared/backoff.ts';
import { type PipeReadOps, type PipeWriteOps, readTable, writeTable } from './pipe-ends.ts';

const { O_NONBLOCK, O_RDONLY, O_WRONLY } = fs.constants;

/** Milliseconds between looks for a reader: nothing tells when one comes. */
const FIRST_LOOK_MS = 5;
const LAST_LOOK_MS = 100;

/** How a FIFO is opened. */
export interface OpenFifoOptions {
  /** Which end. */
  direction: 'read' | 'write';
  /** Ends the opening, and the wait for a reader. */
  signal?: AbortSignal | undefined;
}

/**
 * Opens one end of a FIFO. Neither end keeps a thread of the pool while it waits for the other.
 *
 * The reading end is open at once; its first read waits for a writer, and the end comes when the last
 * writer has left (on Linux; elsewhere the first read may give the end where no writer came yet). The
 * writing end opens when there is a reader, which it looks for every 100 ms at most. A reader that
 * leaves is `EPIPE`.
 *
 * @param path - The FIFO.
 * @param options - `direction`, `signal`.
 * @throws {QemuFileError} `ENOENT`, `EACCES` … as the system has it; `ENOTSUP` not a FIFO; `ECANCELED` the
 *   signal.
 */
export function openFifo(
  path: string,
  options: OpenFifoOptions & { direction: 'read' },
): Promise<PipeReadOps>;
export function openFifo(
  path: string,
  options: OpenFifoOptions & { direction: 'write' },
): Promise<PipeWriteOps>;
export function openFifo(
  path: string,
  options: OpenFifoOptions,
): Promise<PipeReadOps | PipeWriteOps>;
export async function openFifo(
  path: string,
  options: OpenFifoOptions,
): Promise<PipeReadOps | PipeWriteOps> {
  const { direction, signal } = options;
  try {
    const reads = direction === 'read';
    // Looked at first: opening may do something to what is not a FIFO.
    checkFifo(path, await fs.promises.stat(path));
    const fd = reads
      ? await openFile(path, O_RDONLY | O_NONBLOCK, 0)
      : await openWriter(path, signal);
    try {
      if (signal?.aborted) throw abortError(signal, 'open');
      checkFifo(path, fs.fstatSync(fd));
      return pipeTable(fd, direction);
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
  } catch (error) {
    throw toQemuFileError(error, { operation: 'open' });
  }
}

/** A table over the descriptor of a pipe, which is the table's from then on. */
export function pipeTable(fd: number, direction: 'read' | 'write'): PipeReadOps | PipeWriteOps {
  return direction === 'read'
    ? readTable(new net.Socket({ fd, readable: true, writable: false }), fd, false)
    : writeTable(new net.Socket({ fd, readable: false, writable: true }), fd, false);
}

async function openWriter(path: string, signal: AbortSignal | undefined): Promise<number> {
  const backoff = new Backoff(FIRST_LOOK_MS, LAST_LOOK_MS);
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

/** Waits, but not longer than the signal lets. */
function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(settle, ms);
    signal?.addEventListener('abort', settle);
    function settle(): void {
      clearTimeout(timer);
      signal?.removeEventListener('abort', settle);
      resolve();
    }
  });
}

function checkFifo(path: string, stats: fs.Stats): void {
  if (stats.isFIFO()) return;
  throw new QemuFileError('ENOTSUP', `${path} is not a FIFO`, { operation: 'open' });
}
