import { connectSocket } from '../../../adapters/socket/connect.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { SocketTarget } from '../../../adapters/socket/socket-target.ts';
import { parseUri } from '../../../adapters/uri.ts';
import { abortError, QemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import { RAM_FLAG } from '../../migration/format/wire.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { isDamageError } from '../../snapshot/format/damage.ts';
import { quote } from '../../util/format.ts';
import type { DestinationMemory, LazyBlock } from './destination-memory.ts';
import type { LazyRestoreOptions } from './lazy-options.ts';
import { LoadedSink } from './loaded-sink.ts';
import { FileSink } from './page-server/file-sink.ts';
import { PageServer } from './page-server/page-server.ts';
import type { PageRange, PageServerStats } from './page-server/page-server-types.ts';
import { ReturnPathListener } from './return-path-listener.ts';
import { writeClosing } from './write-opening.ts';

const OPERATION = 'restoreLazily';
const PROGRESS_MS = 250;

/** What a `PostcopySource` works with. */
interface Connected {
  readonly address: string;
  readonly guest: SavedGuest;
  readonly memory: DestinationMemory;
  readonly file: QemuFile;
  readonly options: LazyRestoreOptions;
  /** Whether the guest runs already, and lost its former source. */
  readonly isRecovery: boolean;
  /** Whether the preempt channel ends with an end mark, as QEMU before 8.0 expects. */
  readonly endsPreempt: boolean;
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
  #sink: LoadedSink | undefined;
  /** Requests that came before there was a server. */
  #early: (readonly [block: number, offset: number, length: number])[] = [];
  #hostPageSizes: readonly number[] = [];
  #preempt: QemuFile | undefined;

  /**
   * Connect to a destination.
   *
   * @throws {QemuFileError} (rejects) as `connectSocket`; `EINVAL` for an address of another kind.
   */
  static async connect(connected: Omit<Connected, 'file'>): Promise<PostcopySource> {
    const { address, options } = connected;
    return new PostcopySource({ ...connected, file: await connect(address, options) });
  }

  private constructor(connected: Connected) {
    const { guest, memory, file, options } = connected;
    const { signal } = options;
    this.#connected = connected;
    this.#stopFollowing = onAbort(signal, () => {
      this.break(abortError(signal as AbortSignal, OPERATION));
    });
    const { hasFooters, ram } = guest;
    const started = connected.isRecovery ? [{ kind: 'start', name: 'ram', ...ram } as const] : [];
    this.writer = new MigrationWriter(file, { hasFooters, pageSize: memory.pageSize, started });
    this.listener = new ReturnPathListener(file, memory, {
      request: (block, offset, length) => this.#request(block, offset, length),
      loaded: () => this.#sink?.noteLoaded(),
    });
  }

  /** Milliseconds since the connection. */
  get elapsedMs(): number {
    return performance.now() - this.connectedAt;
  }

  /** What the page server has done. */
  get stats(): PageServerStats {
    return (this.#server as PageServer).stats;
  }

  /** The pages that were sent because of requests while they were recorded. */
  get workingSet(): readonly PageRange[] {
    return (this.#server as PageServer).workingSet;
  }

  /**
   * Open the second connection (postcopy-preempt), which QEMU knows from the first one only by its order; requested
   * pages go over it.
   */
  async openPreemptChannel(): Promise<void> {
    const { address, options } = this.#connected;
    this.#preempt = await connect(address, options);
  }

  /**
   * Begin to send pages: those that are asked for, and the recorded set, the first pages of which the guest needs as
   * soon as it runs. A PART of `ram` must be open.
   *
   * @param hostPageSizes - Bytes of the destination's pages, by block.
   * @param hasLoaded - Resolves when the devices are loaded: the background would delay that, and waits for it.
   * @param received - The pages that the destination has already, by block.
   * @throws {QemuFileError} As `PageServer`.
   */
  startServing(
    hostPageSizes: readonly number[],
    hasLoaded: Promise<void>,
    received?: readonly Uint8Array[],
  ): void {
    const { guest, options, endsPreempt } = this.#connected;
    const sink = new LoadedSink(this.writer, guest.ram, this.listener.shut);
    this.#sink = sink;
    const server = new PageServer({
      source: guest.pages,
      sink,
      requestSink: this.#preempt && new FileSink(this.#preempt),
      hostPageSizes,
      received,
      prefetch: options.prefetch,
      hasBackground: options.background,
      recordMs: options.recordMs,
      // From 8.0 on QEMU waits at its end for every page that it has asked for, if there is a channel for them.
      answersAfterEnd: this.#preempt !== undefined && !endsPreempt,
      // 0 means no limit, as in the options of all commands.
      maxBandwidth: options.maxBandwidth || undefined,
    });
    this.#server = server;
    this.#hostPageSizes = hostPageSizes;
    for (const early of this.#early) this.#request(...early);
    this.#early = [];
    server.start(hasLoaded);
  }

  /**
   * Send all pages, then the end, and wait until the destination has taken everything. The end is sent only when
   * every page with data was sent.
   *
   * @throws {QemuFileError} (rejects) the error of a page, of the connection, or of the destination; the connection
   *   must then be broken.
   */
  async serveToEnd(): Promise<void> {
    const { guest, file } = this.#connected;
    const server = this.#server as PageServer;
    const progress = setInterval(() => this.#reportProgress(), PROGRESS_MS);
    try {
      await Promise.race([server.finished, this.listener.shut.then(endedEarly)]);
      this.#reportProgress();
      if (this.#connected.endsPreempt) {
        this.#preempt?.putBe64(RAM_FLAG.EOS);
        await this.#preempt?.flush();
      }
      writeClosing(guest, this.writer);
      await file.flush();
      const value = await this.listener.shut;
      if (value !== 0) {
        throw lazyError('EIO', `QEMU reports that it could not load the guest (SHUT ${value})`);
      }
    } finally {
      clearInterval(progress);
    }
  }

  /** Break the connection: QEMU must not take it for the end. */
  break(error: Error): void {
    this.#server?.stop(error);
    this.#connected.file.destroy(error);
    this.#preempt?.destroy(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopFollowing();
    await Promise.allSettled([this.#connected.file.close(), this.#preempt?.close()]);
    // A guest may be closed afterwards: nothing reads it any more.
    await this.#server?.idle();
  }

  #request(block: number, offset: number, length: number): void {
    if (this.#server === undefined) {
      this.#early.push([block, offset, length]);
      return;
    }
    const size = this.#hostPageSizes[block] ?? 0;
    if (length > size) {
      const { name } = this.#connected.memory.blocks[block] as LazyBlock;
      const reason = `RAM block ${quote(name)} has pages of ${length} bytes at the destination, not of ${size}`;
      throw lazyError('ENOTSUP', reason);
    }
    this.#server.request(block, offset);
  }

  #reportProgress(): void {
    const { sentBytes: bytes, dataBytes: total } = this.stats;
    this.#connected.options.onProgress?.({ resumeMs: this.resumeMs, bytes, total });
  }
}

/** Connect to a QEMU that listens for a migration. */
async function connect(address: string, { signal, tls }: LazyRestoreOptions): Promise<QemuFile> {
  return new QemuFile(socketOps(await connectSocket(targetOf(address), { signal, tls })));
}

/**
 * Check an address of the caller's, before QEMU is told to listen there.
 *
 * @throws {QemuFileError} `EINVAL` for one that postcopy cannot use.
 */
export function checkAddress(address: string | undefined): void {
  if (address !== undefined) targetOf(address);
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

/** Return the error of a source that failed while the guest waits for the rest of its memory, with what to do. */
export function waitingGuest(error: QemuFileError): QemuFileError {
  const repair = isDamageError(error)
    ? 'remove that object if it is there, put it back with "qemu-file store copy --replace" from another store, and '
    : '';
  const reason =
    `${error.reason}; the guest keeps what has arrived and waits for the rest: ${repair}continue with ` +
    '"qemu-file restore --lazy --recover"';
  return lazyError(error.code, reason, error);
}
