import { QemuFileError } from '../contract/errors.ts';
import { openScratchStore } from '../extract/scratch-store.ts';
import type { Manifest } from '../migration/verify/manifest.ts';
import { verifyStream } from '../migration/verify/verify.ts';
import type { MigrationWatch } from './migration-watch.ts';
import type { SaveConnection } from './save-connection.ts';

/** What is checked, and how it is known where a stream ends. */
export interface SaveCheckOptions {
  check?: boolean | undefined;
  manifest?: boolean | undefined;
  /** Whether QEMU waits for an answer at the end of its stream. */
  answers: boolean;
}

/** Reads along with a save, finds its end, and decides whether it may be published. */
export class SaveCheck {
  /** Of the stream; null if none was wanted. */
  manifest: Manifest | null = null;
  readonly warnings: string[] = [];
  readonly #outgoing: SaveConnection;
  readonly #watch: MigrationWatch;
  readonly #options: SaveCheckOptions;
  #isDecided = false;

  constructor(outgoing: SaveConnection, watch: MigrationWatch, options: SaveCheckOptions) {
    this.#outgoing = outgoing;
    this.#watch = watch;
    this.#options = options;
  }

  /** Gives a signal that follows another one until it is decided that the stream is published. */
  until(signal: AbortSignal): AbortSignal {
    const own = new AbortController();
    const onAbort = (): void => {
      if (!this.#isDecided) own.abort(signal.reason);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    return own.signal;
  }

  /** The `check` of a relay. */
  async run(stream: AsyncIterable<Uint8Array>): Promise<void> {
    const chunks = stream[Symbol.asyncIterator]();
    // Without `return`, with which the verification would give up the rest.
    if (this.#options.check !== false) {
      await this.#verify({ [Symbol.asyncIterator]: () => ({ next: () => chunks.next() }) });
    }
    // The end of this is there once the sink has taken everything.
    while ((await chunks.next()).done !== true);
    const status = this.#options.answers
      ? this.#watch.end?.status
      : (await this.#watch.ended).status;
    if (status !== (this.#options.answers ? undefined : 'completed')) {
      const reason = `QEMU's migration is in state "${status}" at the end of its stream`;
      throw new QemuFileError('EIO', reason, { operation: 'saveVm' });
    }
    this.#isDecided = true;
  }

  async #verify(stream: AsyncIterable<Uint8Array>): Promise<void> {
    using scratch = openScratchStore();
    const { faults, warnings, manifest } = await verifyStream(stream, {
      digests: this.#options.manifest === true ? { store: scratch.store } : undefined,
      // Not every machine sends one.
      withoutDescription: true,
      onEvent: ({ type }) => {
        if (type === 'vmDescription' && this.#options.answers) this.#outgoing.end();
      },
    });
    const [fault] = faults;
    if (fault !== undefined) throw fault;
    this.warnings.push(...warnings);
    this.manifest = manifest;
    if (this.#options.answers) this.#outgoing.end();
  }
}
