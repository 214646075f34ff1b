import { decompressWith } from '../../adapters/index.ts';
import type { Compression } from '../migration/containers/sniff.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';

/**
 * Return a function that opens a file compressed in a format that Node.js cannot read itself; the
 * `decompress` option of `unwrap`. An external program does the work.
 */
export function decompress(format: Compression): (compressed: QemuFile) => QemuFile {
  return (compressed) => new QemuFile(decompressWith(format)(compressed));
}
