import { Duplex } from 'node:stream';
import { QemuFileError } from '../../lib/contract/errors.ts';
import { StreamReader } from '../stream/stream-reader.ts';
import { StreamWriter } from '../stream/stream-writer.ts';
import { ExternalTool } from './external-tool.ts';

type Callback = (error?: Error | null) => void;

/** Compresses with a tool of the system. The output ends after the tool has exited with status 0. */
export class ExternalCompressor extends Duplex {
  readonly #format: string;
  readonly #tool: ExternalTool;
  readonly #reader: StreamReader | undefined;
  readonly #writer: StreamWriter | undefined;
  #written = 0;
  #read = 0;

  /**
   * @param format - Name of the format and of the tool in `PATH`.
   * @param args - Arguments with which the tool compresses its standard input to its standard output.
   * @throws {QemuFileError} The system's own code (`EAGAIN`, `EMFILE` …) if it cannot start another process.
   */
  constructor(format: string, args: readonly string[]) {
    super();
    this.#format = format;
    this.#tool = new ExternalTool(format, args, 'compress');
    const { stdin, stdout } = this.#tool;
    if (stdout) this.#reader = new StreamReader(stdout, 'EIO');
    if (stdin) this.#writer = new StreamWriter(stdin);
  }

  override _write(chunk: Buffer, _encoding: string, callback: Callback): void {
    void this.#settle(callback, async () => {
      await this.#writer?.writev([chunk], this.#written);
      this.#written += chunk.length;
    });
  }

  override _final(callback: Callback): void {
    void this.#settle(callback, async () => {
      await this.#writer?.end();
    });
  }

  override _read(): void {
    void this.#settle(
      (error) => error && this.destroy(error),
      async () => {
        const chunk = (await this.#reader?.read(this.#read)) ?? new Uint8Array(0);
        this.#read += chunk.length;
        if (chunk.length > 0) {
          this.push(chunk);
          return;
        }
        // The tool's exit status shows whether the output is complete.
        const failure = await this.#failure();
        if (failure !== undefined) throw failure;
        this.push(null);
      },
    );
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#close().then(
      () => callback(error),
      (failure: unknown) => callback(error ?? (failure as Error)),
    );
  }

  /** Report the failure of the tool instead of the stream errors that follow from it. */
  async #settle(callback: Callback, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      callback(this.destroyed ? (error as Error) : ((await this.#failure()) ?? (error as Error)));
      return;
    }
    callback();
  }

  async #failure(): Promise<Error | undefined> {
    await this.#tool.end.ended;
    return this.#tool.failure(this.#written, compressionAdvice(this.#format));
  }

  async #close(): Promise<void> {
    const closed = new QemuFileError('ECANCELED', 'the compressor was destroyed');
    this.#reader?.close(closed);
    this.#writer?.close(closed);
    await this.#tool.close();
  }
}

/** Return the advice where the tool of a format is missing. */
export function compressionAdvice(format: string): string {
  return `install ${format}, use Node.js 22.15 or newer, or choose gzip`;
}
