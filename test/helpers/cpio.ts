// An archive in the format that Linux unpacks as its first file system ("newc").

/** A file, a folder or a character device of an archive. */
export type CpioEntry = {
  readonly path: string;
} & (
  | { readonly contents: Uint8Array; readonly isExecutable?: boolean }
  | { readonly device: readonly [major: number, minor: number] }
  | { readonly isFolder: true }
);

const ALIGNMENT = 4;
const TRAILER = 'TRAILER!!!';

/** Return an archive of entries; a folder precedes what is in it. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const chunks = entries.map((entry, at) => {
    if ('contents' in entry) {
      const mode = entry.isExecutable === true ? 0o100755 : 0o100644;
      return member(at + 1, entry.path, mode, entry.contents);
    }
    if ('device' in entry) return member(at + 1, entry.path, 0o020600, undefined, entry.device);
    return member(at + 1, entry.path, 0o040755);
  });
  return Buffer.concat([...chunks, member(0, TRAILER, 0)]);
}

function member(
  inode: number,
  path: string,
  mode: number,
  contents: Uint8Array = new Uint8Array(),
  [major, minor]: readonly [number, number] = [0, 0],
): Buffer {
  const name = Buffer.from(`${path}\0`);
  const [links, checksum, owner, time] = [1, 0, 0, 0];
  const header = [
    ...[inode, mode, owner, owner, links, time, contents.length],
    ...[0, 0, major, minor, name.length, checksum],
  ].map((field) => field.toString(16).padStart(8, '0'));
  return Buffer.concat([
    padded(Buffer.concat([Buffer.from(`070701${header.join('')}`), name])),
    padded(contents),
  ]);
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & (ALIGNMENT - 1))]);
}
