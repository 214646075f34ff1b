import fs from 'node:fs';

/*
 * These functions look up `fs` when they are called, so that a test can replace one of its functions. They
 * work on descriptors instead of a `FileHandle`, because a handle that is garbage-collected closes its
 * descriptor.
 */

type Done<T> = (error: Error | null, value: T) => void;

function promise<T>(start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error) reject(error);
      else resolve(value);
    });
  });
}

/** Open a path. @returns Its descriptor. @see open(2) */
export function openFile(path: string, flags: number, mode: number): Promise<number> {
  return promise((done) => fs.open(path, flags, mode, done));
}

/** Make the content of a file durable. @see fsync(2) */
export function syncFd(fd: number): Promise<void> {
  return promise((done: Done<void>) => fs.fsync(fd, (error) => done(error)));
}

/** Set the length of a file, in bytes. @see ftruncate(2) */
export function truncateFd(fd: number, length: number): Promise<void> {
  return promise((done: Done<void>) => fs.ftruncate(fd, length, (error) => done(error)));
}

/** Close a descriptor. @see close(2) */
export function closeFd(fd: number): Promise<void> {
  return promise((done: Done<void>) => fs.close(fd, (error) => done(error ?? null)));
}
