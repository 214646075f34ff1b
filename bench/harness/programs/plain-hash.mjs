// Read a file and compute its XXH64: the floor of everything that hashes a stream.
import { closeSync, openSync, readSync } from 'node:fs';
import xxhash from 'fast-xxhash';

const path = process.argv[2] ?? '';
const hash = (await xxhash()).create64();
const chunk = Buffer.alloc(64 * 1024);
const fd = openSync(path, 'r');
for (;;) {
  const length = readSync(fd, chunk, 0, chunk.length, null);
  if (length === 0) break;
  hash.update(chunk.subarray(0, length));
}
closeSync(fd);
hash.digest();
