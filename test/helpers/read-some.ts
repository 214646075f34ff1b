import type { Readable } from 'node:stream';

/**
 * Waits for so many bytes by way of 'readable' and `read(size)`. The listener stays until they are
 * there: one that is added anew for each look is called at once while there are too few, for ever.
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
