import { MigrationStreamError } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import { openSource, type SourceFile, type StreamSource } from '../format/stream-source.ts';
import { MULTIFD_MAGIC, STREAM_MAGIC } from '../format/wire.ts';
import { MultifdChannels } from '../multifd/multifd-channels.ts';
import type { RamSections } from '../ram/ram-sections.ts';

/** The further channels of a migration: those of multifd, and the one of postcopy-preempt. */
export class SideChannels {
  readonly multifd: MultifdChannels | null;
  readonly #preempt: StreamInput | null;
  readonly #sources: readonly SourceFile[];
  /** For errors. */
  readonly #preemptName: string;
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
   * Tells the channels apart by how they begin.
   *
   * @param onFailure - Told when a multifd channel fails: whoever reads the main channel must not wait for
   *   what will not come then.
   * @throws {MigrationStreamError} (rejects) `not-a-stream` for a second main channel, or a second one of
   *   postcopy-preempt.
   */
  static async open(
    channels: readonly StreamSource[],
    onFailure: (error: Error) => void,
  ): Promise<SideChannels> {
    const sources = channels.map(openSource);
    try {
      return await SideChannels.#tell(sources, onFailure);
    } catch (error) {
      for (const source of sources) await source.close();
      throw error;
    }
  }

  static async #tell(
    sources: readonly SourceFile[],
    onFailure: (error: Error) => void,
  ): Promise<SideChannels> {
    const multifd: StreamInput[] = [];
    let preempt: StreamInput | null = null;
    let preemptName = '';
    for (const [index, { file }] of sources.entries()) {
      const there = await file.fillOrEnd(4);
      if (there > 0 && there < 4) {
        const reason = `${nameOf(index, sources)} ends after ${there} bytes`;
        throw new MigrationStreamError('truncated', reason, { position: there });
      }
      const magic = there === 0 ? 0 : Buffer.from(file.peekBuffer(4)).readUInt32BE(0);
      const input = new StreamInput(file);
      if (magic === MULTIFD_MAGIC) {
        multifd.push(input);
      } else if (magic === STREAM_MAGIC || preempt !== null) {
        const what = magic === STREAM_MAGIC ? 'is a main channel' : 'is of no kind that is missing';
        const reason = `${nameOf(index, sources)} ${what}`;
        throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
      } else {
        preempt = input;
        preemptName = nameOf(index, sources);
      }
    }
    const group = multifd.length > 0 ? new MultifdChannels(multifd, { onFailure }) : null;
    return new SideChannels(group, preempt, preemptName, sources);
  }

  /** The destination may ask for pages from now on: they come on their own channel. */
  listen(ram: RamSections): void {
    if (this.#preempt === null || this.#urgent !== null) return;
    this.#urgent = ram.readBare(this.#preempt);
    this.#urgent.catch(() => {});
  }

  /**
   * Waits until all have ended in order.
   *
   * @param isAdvised - Whether the main channel said that there may be postcopy.
   * @param uuid - The guest's, if the main channel said it.
   * @throws {MigrationStreamError} (rejects) as the channels; for one that nothing was read from.
   */
  async finish(isAdvised: boolean, uuid: string | null): Promise<void> {
    const { multifd } = this;
    await multifd?.finish();
    const theirs = multifd?.uuid ?? uuid;
    if (uuid !== null && theirs !== uuid) {
      const reason = `the multifd channels belong to another guest: UUID ${theirs}, by the main channel ${uuid}`;
      throw new MigrationStreamError('corrupt', reason, { position: 0 });
    }
    await this.#urgent;
    if (this.#urgent === null && this.#preempt !== null) await this.#judgeUnread(isAdvised);
  }

  /** One that has no magic and was not needed may be one of multifd that has been damaged. */
  async #judgeUnread(isAdvised: boolean): Promise<void> {
    const input = this.#preempt as StreamInput;
    const name = this.#preemptName;
    if (!(await input.atEnd())) {
      const reason = `${name} is none of multifd, and the main channel has no use for another`;
      throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
    }
    if (!isAdvised) {
      throw new MigrationStreamError('truncated', `${name} is empty`, { position: 0 });
    }
  }

  /** Gives them up. */
  async close(error: Error): Promise<void> {
    this.multifd?.stop(error);
    for (const source of this.#sources) await source.close();
  }
}

function nameOf(index: number, sources: readonly SourceFile[]): string {
  return `additional channel ${index + 1} of ${sources.length}`;
}
