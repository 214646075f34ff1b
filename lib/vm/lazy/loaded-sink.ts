import { QemuFileError } from '../../contract/errors.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import type { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { Fifo } from '../../util/fifo.ts';
import { noop } from '../../util/noop.ts';
import { FileSink } from './page-server/file-sink.ts';
import type { PageSink } from './page-server/page-server-types.ts';
import { LOADED_PING } from './return-path-listener.ts';

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * Writes RAM records into the open PART of `ram`, and learns when QEMU has loaded them: it answers a PING only after
 * all that was sent before.
 */
export class LoadedSink implements PageSink {
  readonly #writer: MigrationWriter;
  readonly #ram: SavedGuest['ram'];
  readonly #sink: FileSink;
  readonly #waiters = new Fifo<Waiter>();
  #error: Error | undefined;

  /**
   * @param writer - A PART of `ram` is open.
   * @param ram - The section of `ram`.
   * @param shut - Settles when the return path ends.
   */
  constructor(writer: MigrationWriter, ram: SavedGuest['ram'], shut: Promise<unknown>) {
    this.#writer = writer;
    this.#ram = ram;
    this.#sink = new FileSink(writer.file);
    const reason = 'QEMU ended the migration before it had loaded what was sent';
    const early = new QemuFileError('EIO', reason, { operation: 'restoreLazily' });
    shut.then(
      () => this.#fail(early),
      (error: Error) => this.#fail(error),
    );
  }

  write(bytes: Uint8Array): Promise<void> {
    return this.#sink.write(bytes);
  }

  async writeUntilLoaded(bytes: Uint8Array): Promise<void> {
    const file = this.#writer.file;
    file.putBufferAsync(bytes);
    this.#writer.endSection();
    this.#writer.command({ name: 'PING', value: LOADED_PING });
    this.#writer.beginSection({ kind: 'part', name: 'ram', ...this.#ram });
    const loaded = new Promise<void>((resolve, reject) => {
      if (this.#error === undefined) this.#waiters.push({ resolve, reject });
      else reject(this.#error);
    });
    loaded.catch(noop);
    await file.flush();
    await loaded;
  }

  /** Note that QEMU has answered the PING after the oldest records. */
  noteLoaded(): void {
    this.#waiters.shift()?.resolve();
  }

  #fail(error: Error): void {
    this.#error = error;
    for (const { reject } of this.#waiters.takeAll()) reject(error);
  }
}
