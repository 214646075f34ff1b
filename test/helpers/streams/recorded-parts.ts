import fs from 'node:fs';

/** The bytes of a recorded migration. */
export interface RecordedParts {
  /** The file that contains the main stream. */
  main: Buffer;
  /** The other channels. */
  channels: Buffer[];
  /** Offset of the main stream in its file. */
  streamAt: number;
}

/** Unit of bytes that are written or left as a hole. */
const UNIT = 65_536;

/** Write a file with holes where the bytes are zeros, as QEMU does. */
export function writeSparse(path: string, bytes: Buffer): void {
  const fd = fs.openSync(path, 'w');
  try {
    const zeros = Buffer.alloc(UNIT);
    for (let at = 0; at < bytes.length; at += UNIT) {
      const unit = bytes.subarray(at, at + UNIT);
      if (!unit.equals(zeros.subarray(0, unit.length))) fs.writeSync(fd, unit, 0, unit.length, at);
    }
    fs.ftruncateSync(fd, bytes.length);
  } finally {
    fs.closeSync(fd);
  }
}
