import type { QemuFile } from '../../../qemu-file/qemu-file.ts';
import type { PageSink } from './page-server-types.ts';

/** Writes RAM records to a file, after what was put there before. */
export class FileSink implements PageSink {
  readonly #file: QemuFile;

  constructor(file: QemuFile) {
    this.#file = file;
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#file.putBufferAsync(bytes);
    return this.#file.flush();
  }
}
