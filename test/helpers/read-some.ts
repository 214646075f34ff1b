import type { Readable } from 'node:stream';

/**
 * Wait for `size` bytes by 'readable' and `read(size)`. One listener stays until they have arrived: a new
 * listener for each attempt would be called at once, endlessly.
 */
export function readSome(stream: Readable, size: number): Promise<Buffer> {
  return new Promise((resolve) => {
    const look = (): void => {
      const chunk = stream.read(size) as Buffer | null;
      if (chunk === null) return;
      stream.off('readable', look);
      resolve(chunk);
    };
    stream.on('readable', look);
    look();
  });
}
