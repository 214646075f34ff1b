import { QemuFile } from '../../qemu-file/qemu-file.ts';

/** Collects the items of a postcopy package, whose length is written before them. */
export class PackageBuffer {
  /** The file to write the items to. */
  readonly file: QemuFile;
  readonly #pieces: Buffer[] = [];

  constructor() {
    this.file = new QemuFile({
      writevBuffer: (buffers) => {
        let bytes = 0;
        for (const buffer of buffers) bytes += buffer.length;
        this.#pieces.push(Buffer.concat(buffers, bytes));
        return bytes;
      },
    });
  }

  /** Return all bytes that were written. */
  take(): Buffer {
    // The backend answers synchronously, so everything has arrived after this.
    void this.file.flush();
    return Buffer.concat(this.#pieces);
  }
}
