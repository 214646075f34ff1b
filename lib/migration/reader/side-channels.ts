import { noop } from '../../util/noop.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import { openSource, type SourceFile, type StreamSource } from '../format/stream-source.ts';
import { MULTIFD_MAGIC, STREAM_MAGIC } from '../format/wire.ts';
import type { MultifdChannels } from '../multifd/multifd-channels.ts';
import type { RamSections } from '../ram/ram-sections.ts';

/** The additional channels of a migration: those of multifd, and the one of postcopy-preempt. */
export class SideChannels {
  readonly multifd: MultifdChannels | null;
  readonly #preempt: StreamInput | null;
  readonly #sources: readonly SourceFile[];
  /** Name of the preempt channel in errors. */
  readonly #preemptName: string;
  /** The reading of the postcopy-preempt channel, once it was started. */
  #urgent: Promise<void> | null = null;

  private constructor(
    multifd: MultifdChannels | null,
    preempt: StreamInput | null,
    preemptName: string,
    sources: readonly SourceFile[],
  ) {
    this.multifd = multifd;
    this.#preempt = preempt;
    this.#preemptName = preemptName;
    this.#sources = sources;
  }

  /**
   * Open the channels. Their kinds are known by their first bytes.
   *
   * @param onFailure - Called when a multifd channel fails, so that the reader of the main channel does not
   *   wait for a SYNC that will not come.
   * @throws {MigrationStreamError} (rejects) `not-a-stream` for a second main or postcopy-preempt channel,
   *   `truncated` for one that ends inside its first 4 bytes.
   */
  static async open(
    channels: readonly StreamSource[],
    onFailure: (error: Error) => void,
  ): Promise<SideChannels> {
    const sources = channels.map(openSource);
    try {
      return await SideChannels.#classify(sources, onFailure);
    } catch (error) {
      for (const source of sources) await source.close();
      throw error;
    }
  }

  static async #classify(
    sources: readonly SourceFile[],
    onFailure: (error: Error) => void,
  ): Promise<SideChannels> {
    const multifd: StreamInput[] = [];
    let preempt: StreamInput | null = null;
    let preemptName = '';
    for (const [index, { file }] of sources.entries()) {
      const available = await file.fillOrEnd(4);
      if (available > 0 && available < 4) {
        const reason = `${nameOf(index, sources)} ends after ${available} bytes`;
        throw new MigrationStreamError('truncated', reason, { position: available });
      }
      const magic = available === 0 ? 0 : Buffer.from(file.peekBuffer(4)).readUInt32BE(0);
      const input = new StreamInput(file);
      if (magic === MULTIFD_MAGIC) {
        multifd.push(input);
      } else if (magic === STREAM_MAGIC || preempt !== null) {
        const what =
          magic === STREAM_MAGIC
            ? 'is a main channel'
            : 'is neither a multifd channel nor the first postcopy-preempt channel';
        const reason = `${nameOf(index, sources)} ${what}`;
        throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
      } else {
        preempt = input;
        preemptName = nameOf(index, sources);
      }
    }
    const group = multifd.length > 0 ? await openMultifd(multifd, onFailure) : null;
    return new SideChannels(group, preempt, preemptName, sources);
  }

  /** Start to read the postcopy-preempt channel: the destination may request pages from now on. */
  listen(ram: RamSections): void {
    if (this.#preempt === null || this.#urgent !== null) return;
    this.#urgent = ram.readPostcopyChannel(this.#preempt);
    this.#urgent.catch(noop);
  }

  /**
   * Wait until all channels have ended in order.
   *
   * @param isAdvised - Whether POSTCOPY_ADVISE came on the main channel.
   * @param uuid - The guest's UUID by the main channel, null if it has none.
   * @throws {MigrationStreamError} (rejects) the faults of the channels; `not-a-stream` or `truncated` for a
   *   channel that the migration has no use for.
   */
  async finish(isAdvised: boolean, uuid: string | null): Promise<void> {
    const { multifd } = this;
    await multifd?.finish();
    const multifdUuid = multifd?.uuid ?? uuid;
    if (uuid !== null && multifdUuid !== uuid) {
      const reason = `the multifd channels belong to another guest: UUID ${multifdUuid}, the main channel has ${uuid}`;
      throw new MigrationStreamError('corrupt', reason, { position: 0 });
    }
    await this.#urgent;
    if (this.#urgent === null && this.#preempt !== null) await this.#checkUnread(isAdvised);
  }

  /** Refuse a channel without a magic that was not needed: it may be a damaged multifd channel. */
  async #checkUnread(isAdvised: boolean): Promise<void> {
    const input = this.#preempt as StreamInput;
    const name = this.#preemptName;
    if (!(await input.atEnd())) {
      const reason = `${name} is not a multifd channel, and the main channel does not use another kind`;
      throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
    }
    if (!isAdvised) {
      throw new MigrationStreamError('truncated', `${name} is empty`, { position: 0 });
    }
  }

  /** Close all channels; a pending wait for them fails with `error`. */
  async close(error: Error): Promise<void> {
    this.multifd?.stop(error);
    for (const source of this.#sources) await source.close();
  }
}

/** Loads the modules of multifd here: most streams do not need them. */
async function openMultifd(
  inputs: readonly StreamInput[],
  onFailure: (error: Error) => void,
): Promise<MultifdChannels> {
  const { MultifdChannels } = await import('../multifd/multifd-channels.ts');
  return new MultifdChannels(inputs, { onFailure });
}

function nameOf(index: number, sources: readonly SourceFile[]): string {
  return `additional channel ${index + 1} of ${sources.length}`;
}
