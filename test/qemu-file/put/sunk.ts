import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { type Answering, Sink } from '../../helpers/transports/backends.ts';

/** Backends that answer at once, and later. */
export const BOTH: readonly Answering[] = ['sync', 'async'];

/** Return a file on a new sink. */
export function sunk(
  answering: Answering = 'sync',
  options: object = {},
): { sink: Sink; file: QemuFile } {
  const sink = new Sink(answering);
  return { sink, file: new QemuFile(sink, options) };
}
