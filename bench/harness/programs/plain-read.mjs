// Read a file, and write its bytes to another one if there is a second path: the floor in plain Node.
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

const [from, to] = process.argv.slice(2);
const chunk = Buffer.alloc(256 * 1024);
const fd = openSync(from ?? '', 'r');
const out = to === undefined ? undefined : openSync(to, 'w');
for (;;) {
  const length = readSync(fd, chunk, 0, chunk.length, null);
  if (length === 0) break;
  if (out !== undefined) writeSync(out, chunk, 0, length);
}
closeSync(fd);
if (out !== undefined) closeSync(out);
