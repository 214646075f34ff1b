import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { StreamInput } from './stream-input.ts';

const PIECE = 262_144;

/** The items of a package: an input of their own that ends where the package does. */
export class PackageInput extends StreamInput {
  readonly #outer: StreamInput;
  readonly #left: () => number;

  /**
   * @param outer - Its next byte is the package's first.
   * @param size - Bytes of the package.
   */
  constructor(outer: StreamInput, size: number) {
    let left = size;
    const file = new QemuFile({
      async getBuffer() {
        if (left === 0 || (await outer.atEnd())) return 0;
        const take = Math.min(left, outer.available, PIECE);
        left -= take;
        return outer.file.getBuffer(take);
      },
    });
    super(file, outer.position);
    this.#outer = outer;
    this.#left = () => left;
  }

  /** Bytes of the package that have not been read. */
  get left(): number {
    return this.#left() + this.available;
  }

  /** Whether it ended because the stream did. */
  async isCut(): Promise<boolean> {
    return this.#left() > 0 && (await this.#outer.atEnd());
  }
}
