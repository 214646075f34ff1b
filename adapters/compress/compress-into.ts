import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, WriteOps } from '../../lib/contract/ops.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { StreamWriter } from '../stream/stream-writer.ts';
import { compressionArgs, DEFAULT_LEVEL, DEFAULT_THREADS } from './compress.ts';
import { compressionAdvice } from './external-compressor.ts';
import { ExternalTool } from './external-tool.ts';

const operation = 'compress';

/** The system's words for ENOSPC. */
const DISK_IS_FULL = 'No space left on device';

/**
 * Have the system's `zstd` compress into a file, which saves two copies of every byte of the output.
 *
 * Closing the backend waits until the output is complete. It fails with `ENOSPC` if the disk is full, `EIO` with the
 * tool's standard error if that fails otherwise, `ENOTSUP` if it is not installed.
 *
 * @param output - An open descriptor of the file, at whose offset the output begins. It may be closed after the call.
 * @returns A backend that takes plain bytes.
 * @throws {QemuFileError} The system's own code (`EAGAIN`, `EMFILE` …) if it cannot start another process.
 */
export function compressInto(output: number): WriteOps {
  const compression = new Compression(output);
  return {
    writevBuffer: (buffers, position) => compression.write(buffers, position),
    close: (error) => compression.close(error),
    shutDown: () => compression.stop(),
    getFd: () => -1,
    sizes: PIPE_SIZES,
  };
}

class Compression {
  readonly #tool: ExternalTool;
  /** Absent when the system is out of descriptors. */
  readonly #writer: StreamWriter | undefined;

  constructor(output: number) {
    const args = compressionArgs(DEFAULT_LEVEL, DEFAULT_THREADS);
    this.#tool = new ExternalTool('zstd', args, operation, { stdout: output });
    const { stdin } = this.#tool;
    if (stdin !== undefined) this.#writer = new StreamWriter(stdin);
  }

  write(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    if (this.#writer === undefined) return this.#fail(position);
    try {
      const result = this.#writer.writev(buffers, position);
      if (typeof result === 'number') return result;
      return result.then(undefined, (error: unknown) => this.#fail(position, error));
    } catch (error) {
      return this.#fail(position, error);
    }
  }

  stop(): void {
    // The input must not end here: the tool would take a truncated stream for a complete one.
    void this.#tool.end.force();
  }

  async close(error?: Error): Promise<void> {
    try {
      if (error !== undefined) return;
      await this.#writer?.end();
      await this.#tool.end.ended;
      const failure = this.#failure();
      if (failure !== undefined) throw failure;
    } catch (failure) {
      await this.#fail(undefined, failure);
    } finally {
      this.#writer?.close();
      await this.#tool.close();
    }
  }

  /** Report the failure of the tool instead of the stream errors that follow from it. */
  async #fail(position: number | undefined, error?: unknown): Promise<never> {
    await this.#tool.end.ended;
    throw this.#failure(position) ?? error;
  }

  #failure(position?: number): Error | undefined {
    const failure = this.#tool.failure(position, compressionAdvice('zstd'));
    if (failure === undefined || !this.#tool.end.stderr.includes(DISK_IS_FULL)) return failure;
    const { reason } = failure as QemuFileError;
    return new QemuFileError('ENOSPC', reason, { operation, position, cause: failure });
  }
}
