import zlib from 'node:zlib';

/**
 * Compress chunks into slices of one zlib stream, flushed after each chunk as QEMU's multifd does.
 *
 * @returns One slice for each chunk, each with all that was put out for it: `read()` is called until it
 *   returns null, because one call may return a part of what is buffered.
 */
export async function deflateSlices(chunks: Iterable<Uint8Array>): Promise<Buffer[]> {
  const deflate = zlib.createDeflate();
  const slices: Buffer[] = [];
  for (const chunk of chunks) {
    const output: Buffer[] = [];
    const readAll = (): void => {
      const read = (): Buffer | null => deflate.read() as Buffer | null;
      for (let part = read(); part !== null; part = read()) output.push(part);
    };
    deflate.on('readable', readAll);
    deflate.write(chunk);
    await new Promise<void>((done) => deflate.flush(zlib.constants.Z_SYNC_FLUSH, done));
    deflate.off('readable', readAll);
    readAll();
    slices.push(Buffer.concat(output));
  }
  deflate.destroy();
  return slices;
}
