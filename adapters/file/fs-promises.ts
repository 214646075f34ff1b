import fs from 'node:fs';

// These look `fs` up when called, so that a fault put into it is met here too. Descriptors instead of
// `FileHandle`s: the rest of an adapter works on numbers, and a handle that is collected closes its own.

type Done<T> = (error: Error | null, value: T) => void;

function promise<T>(start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error) reject(error);
      else resolve(value);
    });
  });
}

/** open(2). */
export function openFile(path: string, flags: number, mode: number): Promise<number> {
  return promise((done) => fs.open(path, flags, mode, done));
}

/** fsync(2). */
export function syncFd(fd: number): Promise<void> {
  return promise((done: Done<void>) => fs.fsync(fd, (error) => done(error)));
}

/** ftruncate(2). */
export function truncateFd(fd: number, length: number): Promise<void> {
  return promise((done: Done<void>) => fs.ftruncate(fd, length, (error) => done(error)));
}

/** close(2). */
export function closeFd(fd: number): Promise<void> {
  return promise((done: Done<void>) => fs.close(fd, (error) => done(error ?? null)));
}
