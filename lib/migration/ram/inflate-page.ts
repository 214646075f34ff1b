import { inflateSync } from 'node:zlib';

/** Return the page that a complete zlib stream holds, or the reason why it does not. */
export function inflatePage(bytes: Uint8Array, pageSize: number): Uint8Array | string {
  try {
    const options = { maxOutputLength: pageSize, info: true };
    const { buffer, engine } = inflateSync(bytes, options) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    if (buffer.length < pageSize) return `it inflates to ${buffer.length} bytes`;
    const left = bytes.length - engine.bytesWritten;
    return left === 0 ? buffer : `${left} bytes follow its zlib stream`;
  } catch (error) {
    return (error as Error).message;
  }
}
