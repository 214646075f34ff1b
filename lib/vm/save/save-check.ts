import { QemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import { openScratchStore } from '../../extract/scratch-store.ts';
import type { StreamSource } from '../../migration/format/stream-source.ts';
import { MissingPages } from '../../migration/memory/missing-pages.ts';
import type { Manifest } from '../../migration/verify/manifest.ts';
import { verifyStream } from '../../migration/verify/verify.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { SnapshotFile } from '../../snapshot/write/snapshot-file.ts';
import type { MigrationWatch } from '../migration-watch.ts';
import type { SaveConnection } from './save-connection.ts';
import { SaveIndex } from './save-index.ts';
import { readsStream } from './sink.ts';

/** Options of the check, and how it recognises the end of the stream. */
export interface SaveCheckOptions {
  check?: boolean | undefined;
  manifest?: boolean | undefined;
  index?: boolean | undefined;
  /** Whether QEMU waits on the return path for an answer to its stream. */
  hasReturnPath: boolean;
}

/** Reads a stream while it is saved, finds its end, and decides whether it may be published. */
export class SaveCheck {
  /** Manifest of the stream; null unless it was requested. */
  manifest: Manifest | null = null;
  /** Page index of the stream; null unless it was requested and could be made. */
  index: Uint8Array | null = null;
  readonly warnings: string[] = [];
  readonly #connection: SaveConnection;
  readonly #watch: MigrationWatch;
  readonly #sink: QemuFile;
  readonly #options: SaveCheckOptions;
  #isAccepted = false;

  constructor(
    connection: SaveConnection,
    watch: MigrationWatch,
    sink: QemuFile,
    options: SaveCheckOptions,
  ) {
    this.#connection = connection;
    this.#watch = watch;
    this.#sink = sink;
    this.#options = options;
  }

  /** Return a signal that follows `signal` until the stream is accepted for publication. */
  untilAccepted(signal: AbortSignal): AbortSignal {
    const controller = new AbortController();
    const follow = (): void => {
      if (!this.#isAccepted) controller.abort(signal.reason);
    };
    if (signal.aborted) follow();
    else onAbort(signal, follow);
    return controller.signal;
  }

  /** Read the stream to its end: the `check` of a relay. */
  async run(stream: QemuFile): Promise<void> {
    const { check, manifest, index, hasReturnPath } = this.#options;
    const sink = this.#sink;
    if (check !== false && manifest !== true && index !== true && readsStream(sink)) {
      await this.#readInto(sink, stream);
    } else if (check !== false) {
      const indexing = index === true ? await SaveIndex.create(stream) : null;
      const read = indexing?.file ?? stream;
      await this.#verify(manifest === true ? chunksOf(read) : read, indexing);
    }
    // This reaches the end once the sink has taken every byte.
    while ((await stream.fillOrEnd(1)) > 0) stream.skip(stream.lookedAhead);
    const status = hasReturnPath ? this.#watch.end?.status : (await this.#watch.ended).status;
    if (status !== (hasReturnPath ? undefined : 'completed')) {
      const reason = `QEMU's migration is in state "${status}" at the end of its stream`;
      throw new QemuFileError('EIO', reason, { operation: 'saveVm' });
    }
    this.#isAccepted = true;
  }

  /** Let the sink read the stream: it refuses at least what the check would refuse. */
  async #readInto(sink: SnapshotFile, stream: QemuFile): Promise<void> {
    const { hasReturnPath } = this.#options;
    const missing = new MissingPages();
    await sink.readStream(stream, {
      pages: missing,
      onEvent: (event) => {
        if (event.type === 'vmDescription' && hasReturnPath) this.#connection.endStream();
        if (event.type === 'warning') {
          this.warnings.push(`${event.message}, at byte ${event.offset}`);
        }
      },
    });
    this.warnings.push(...missing.describe());
    if (hasReturnPath) this.#connection.endStream();
  }

  async #verify(stream: StreamSource, indexing: SaveIndex | null): Promise<void> {
    const { manifest: hasManifest, hasReturnPath } = this.#options;
    using scratch = openScratchStore();
    const { faults, warnings, manifest, isRamComplete } = await verifyStream(stream, {
      digests: hasManifest === true ? { store: scratch.store } : undefined,
      // Some machine types do not send a VM description.
      withoutDescription: true,
      pages: indexing?.pages,
      onEvent: (event, reader) => {
        indexing?.addEvent(event, reader.ram);
        if (event.type === 'vmDescription' && hasReturnPath) this.#connection.endStream();
      },
    });
    const [fault] = faults;
    if (fault !== undefined) {
      if (!isRamComplete || hasManifest === true) throw fault;
      this.warnings.push(`only the stream up to the end of RAM was checked: ${fault.reason}`);
    }
    this.warnings.push(...warnings);
    this.manifest = manifest;
    const index = fault === undefined ? indexing?.finish() : fault.reason;
    if (typeof index !== 'string') this.index = index ?? null;
    else if (indexing !== null) this.warnings.push(`no page index was made: ${index}`);
    if (hasReturnPath) this.#connection.endStream();
  }
}

/** Return the chunks of a file; leaving them early leaves the rest in the file. */
async function* chunksOf(file: QemuFile): AsyncGenerator<Uint8Array, void> {
  while ((await file.fillOrEnd(1)) > 0) yield file.getBuffer(file.lookedAhead);
}
