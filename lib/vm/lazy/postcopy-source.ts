import { connectSocket, parseUri, type SocketTarget, socketOps } from '../../../adapters/index.ts';
import { abortError, QemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import type { DestinationMemory } from './destination-memory.ts';
import { FileSink } from './file-sink.ts';
import type { LazyRestoreOptions } from './lazy-options.ts';
import { ReturnPathListener } from './return-path-listener.ts';
import { SimplePageServer as PageServer } from './simple-page-server.ts';
import { writeClosing } from './write-opening.ts';

const OPERATION = 'restoreLazily';
const PROGRESS_MS = 250;

/** What a `PostcopySource` works with. */
interface Connected {
  readonly guest: SavedGuest;
  readonly memory: DestinationMemory;
  readonly file: QemuFile;
  readonly options: LazyRestoreOptions;
  /** Whether the guest runs already, and lost its former source. */
  readonly isRecovery: boolean;
}

/** The source's end of a postcopy migration: a connection, its return path, and the pages. */
export class PostcopySource implements AsyncDisposable {
  readonly writer: MigrationWriter;
  readonly listener: ReturnPathListener;
  /** The time of the connection, by `performance.now()`. */
  readonly connectedAt: number = performance.now();
  /** Milliseconds from the connection until the guest ran; null until then. */
  resumeMs: number | null = null;
  readonly #connected: Connected;
  readonly #stopFollowing: () => void;
  #server: PageServer | undefined;
  /** Requests that came before there was a server. */
  #early: (readonly [block: number, offset: number])[] = [];

  /**
   * Connect to a QEMU that listens for a migration.
   *
   * @throws {QemuFileError} (rejects) as `connectSocket`; `EINVAL` for an address of another kind.
   */
  static async connect(
    address: string,
    connected: Omit<Connected, 'file'>,
  ): Promise<PostcopySource> {
    const { signal, tls } = connected.options;
    const socket = await connectSocket(targetOf(address), { signal, tls });
    return new PostcopySource({ ...connected, file: new QemuFile(socketOps(socket)) });
  }

  private constructor(connected: Connected) {
    const { guest, memory, file, options } = connected;
    const { signal } = options;
    this.#connected = connected;
    this.#stopFollowing = onAbort(signal, () => {
      file.destroy(abortError(signal as AbortSignal, OPERATION));
    });
    const { hasFooters, ram } = guest;
    const started = connected.isRecovery ? [{ kind: 'start', name: 'ram', ...ram } as const] : [];
    this.writer = new MigrationWriter(file, { hasFooters, pageSize: memory.pageSize, started });
    this.listener = new ReturnPathListener(file, memory, {
      request: (block, offset) => this.#request(block, offset),
    });
  }

  /** Milliseconds since the connection. */
  get elapsedMs(): number {
    return performance.now() - this.connectedAt;
  }

  /** What the page server has done. */
  get stats(): PageServer['stats'] | undefined {
    return this.#server?.stats;
  }

  /**
   * Begin to answer requests. A PART of `ram` must be open.
   *
   * @param hostPageSizes - Bytes of the destination's pages, by block.
   * @param received - The pages that the destination has already, by block.
   */
  startServing(hostPageSizes: readonly number[], received?: readonly Uint8Array[]): void {
    const { guest, file } = this.#connected;
    const server = new PageServer({
      source: guest.pages,
      sink: new FileSink(file),
      hostPageSizes,
      received,
    });
    // Reported by serveToEnd.
    server.finished.catch(noop);
    this.#server = server;
    for (const [block, offset] of this.#early) server.request(block, offset);
    this.#early = [];
  }

  /**
   * Send all pages, then the end, and wait until the destination has taken everything. The end is sent only when
   * every page with data was sent.
   *
   * @throws {QemuFileError} (rejects) the error of a page, of the connection, or of the destination; the connection
   *   must then be broken.
   */
  async serveToEnd(): Promise<void> {
    const { guest, file, options } = this.#connected;
    const server = this.#server as PageServer;
    const progress = setInterval(() => {
      const { sentBytes: bytes, dataBytes: total } = server.stats;
      options.onProgress?.({ resumeMs: this.resumeMs, bytes, total });
    }, PROGRESS_MS);
    try {
      server.start();
      await Promise.race([server.finished, this.listener.shut.then(endedEarly)]);
      writeClosing(guest, this.writer);
      await file.flush();
      const value = await this.listener.shut;
      if (value !== 0) {
        throw lazyError('EIO', `QEMU reports that it could not load the guest (SHUT ${value})`);
      }
    } catch (error) {
      server.stop(error as Error);
      throw error;
    } finally {
      clearInterval(progress);
    }
  }

  /** Break the connection: QEMU must not take it for the end. */
  break(error: Error): void {
    this.#connected.file.destroy(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopFollowing();
    await this.#connected.file.close().catch(noop);
  }

  #request(block: number, offset: number): void {
    if (this.#server === undefined) this.#early.push([block, offset]);
    else this.#server.request(block, offset);
  }
}

/** Return the address of a migration as a socket's. */
function targetOf(address: string): SocketTarget {
  const uri = parseUri(address);
  if (uri.scheme === 'tcp') return { host: uri.host, port: uri.port };
  if (uri.scheme === 'unix') return { path: uri.path };
  const reason = `${address}: postcopy needs a connection that goes both ways; give tcp: or unix:`;
  throw lazyError('EINVAL', reason);
}

function endedEarly(value: number): never {
  const reason = `QEMU ended the migration (SHUT ${value}) before all of the guest's memory had arrived`;
  throw lazyError('EIO', reason);
}

/** Return an error of a lazy restore. */
export function lazyError(code: string, reason: string, cause?: Error): QemuFileError {
  return new QemuFileError(code, reason, { operation: OPERATION, cause });
}
