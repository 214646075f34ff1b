import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { StreamInput } from './stream-input.ts';

const READ_CHUNK_BYTES = 262_144;

/** The items of a postcopy package: an input of their own, which ends where the package ends. */
export class PackageInput extends StreamInput {
  readonly #outer: StreamInput;
  readonly #unread: () => number;

  /**
   * @param outer - The input whose next byte is the package's first.
   * @param size - Bytes of the package.
   */
  constructor(outer: StreamInput, size: number) {
    let left = size;
    const file = new QemuFile({
      async getBuffer() {
        if (left === 0 || (await outer.atEnd())) return 0;
        const take = Math.min(left, outer.available, READ_CHUNK_BYTES);
        left -= take;
        return outer.file.getBuffer(take);
      },
    });
    super(file, outer.position);
    this.#outer = outer;
    this.#unread = () => left;
  }

  /** Bytes of the package that have not been consumed. */
  get left(): number {
    return this.#unread() + this.available;
  }

  /** Return whether the package ended early because the stream did. */
  async isCut(): Promise<boolean> {
    return this.#unread() > 0 && (await this.#outer.atEnd());
  }
}
