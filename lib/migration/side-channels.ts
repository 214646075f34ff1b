import { StreamInput } from './input.ts';
import { MultifdChannels } from './multifd.ts';
import type { RamSections } from './ram-section.ts';
import { inputOf, type SourceFile, type StreamSource } from './source.ts';
import { MigrationStreamError } from './stream-error.ts';
import { STREAM_MAGIC } from './wire.ts';

const MULTIFD_MAGIC = 0x11223344;

/** The further channels of a migration: those of multifd, and the one of postcopy-preempt. */
export class SideChannels {
  readonly multifd: MultifdChannels | null;
  readonly #preempt: StreamInput | null;
  readonly #sources: readonly SourceFile[];
  #urgent: Promise<void> | null = null;

  private constructor(
    multifd: MultifdChannels | null,
    preempt: StreamInput | null,
    sources: readonly SourceFile[],
  ) {
    this.multifd = multifd;
    this.#preempt = preempt;
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
    const sources = channels.map(inputOf);
    const multifd: StreamInput[] = [];
    let preempt: StreamInput | null = null;
    for (const [index, { file }] of sources.entries()) {
      const there = await file.fillOrEnd(4);
      const magic = there < 4 ? 0 : Buffer.from(file.peekBuffer(4)).readUInt32BE(0);
      const input = new StreamInput(file);
      if (magic === MULTIFD_MAGIC) {
        multifd.push(input);
      } else if (magic === STREAM_MAGIC || preempt !== null) {
        const what = magic === STREAM_MAGIC ? 'is a main channel' : 'is of no kind that is missing';
        const reason = `additional channel ${index + 1} of ${channels.length} ${what}`;
        throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
      } else {
        preempt = input;
      }
    }
    const group = multifd.length > 0 ? new MultifdChannels(multifd, { onFailure }) : null;
    return new SideChannels(group, preempt, sources);
  }

  /** The destination may ask for pages from now on: they come on their own channel. */
  listen(ram: RamSections): void {
    if (this.#preempt === null || this.#urgent !== null) return;
    this.#urgent = ram.readBare(this.#preempt);
    this.#urgent.catch(() => {});
  }

  /** Waits until all have ended in order. */
  async finish(): Promise<void> {
    await this.multifd?.finish();
    await this.#urgent;
  }

  /** Gives them up. */
  async close(error: Error): Promise<void> {
    this.multifd?.stop(error);
    for (const source of this.#sources) await source.close();
  }
}
