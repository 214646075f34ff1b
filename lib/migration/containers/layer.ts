import { QemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { StreamInput } from '../format/stream-input.ts';
import { SNIFF_SIZE, sniffContainer } from './sniff.ts';

/** A file on the way to the stream, and the offset of its byte 0 in the file in which offsets count. */
export interface Layer {
  file: QemuFile;
  base: number;
  seekable: boolean;
}

/** Return the caller's file as a layer. */
export async function bottomLayer(file: QemuFile): Promise<Layer> {
  try {
    // The transport's offset is ahead of the file's by its look-ahead.
    const next = (await file.getOffset()) - file.lookedAhead;
    return { file, base: next - file.getPosition, seekable: true };
  } catch (error) {
    if ((error as QemuFileError).code !== 'ESPIPE') throw error;
    return { file, base: 0, seekable: false };
  }
}

/** Return the first bytes without consuming them. Do not wait for more than a stream's magic if it is there. */
export async function peekStart(file: QemuFile): Promise<Uint8Array> {
  await file.fillOrEnd(4);
  if (sniffContainer(file.peekBuffer(4))?.kind !== 'qevm') await file.fillOrEnd(SNIFF_SIZE);
  return file.peekBuffer(SNIFF_SIZE);
}

/** Move a layer's file to an offset: seek, or skip what precedes it. */
export async function moveTo(layer: Layer, offset: number): Promise<void> {
  const { file } = layer;
  const position = layer.base + file.getPosition;
  if (offset === position) return;
  if (!(Number.isSafeInteger(offset) && offset >= 0)) {
    throw new RangeError(`unwrap: ${offset} is not an offset in bytes`);
  }
  if (layer.seekable) {
    await file.setOffset(offset);
    layer.base = offset - file.getPosition;
  } else if (offset < position) {
    const reason = `the file is past offset ${offset}, and cannot seek`;
    throw new QemuFileError('EINVAL', reason, { operation: 'unwrap', position });
  } else {
    await new StreamInput(file, layer.base).skip(offset - position, 'what precedes the offset');
  }
}
