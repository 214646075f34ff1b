/** Compressions that a stream may be packed with. */
export type Compression = 'gzip' | 'bzip2' | 'xz' | 'lzop' | 'zstd';

/** The kind of a file, by its first bytes. */
export type Container =
  /** A bare migration stream. */
  | { readonly kind: 'qevm' }
  /** A save image of libvirt (`virsh save`); `complete` is false if the save was not finished. */
  | { readonly kind: 'libvirt'; readonly complete: boolean }
  /** A disk image, which may hold snapshots. */
  | { readonly kind: 'qcow2' }
  | { readonly kind: Compression }
  /** A known kind of file that no stream can be read from; `what` describes it. */
  | { readonly kind: 'other'; readonly what: string };

/** Bytes that `sniffContainer` needs. */
export const SNIFF_SIZE = 16;

type Signature = readonly [bytes: Uint8Array, container: Container];

const SIGNATURES: readonly Signature[] = [
  sign('QEVM', { kind: 'qevm' }),
  sign('LibvirtQemudSave', { kind: 'libvirt', complete: true }),
  sign('LibvirtQemudPart', { kind: 'libvirt', complete: false }),
  sign('QFI\xfb', { kind: 'qcow2' }),
  sign('\x1f\x8b', { kind: 'gzip' }),
  sign('BZh', { kind: 'bzip2' }),
  sign('\xfd7zXZ\0', { kind: 'xz' }),
  sign('\x89LZO\0\r\n\x1a\n', { kind: 'lzop' }),
  sign('\x28\xb5\x2f\xfd', { kind: 'zstd' }),
  other('\x7fELF', 'an ELF file, as memory-only dumps are: guest memory, but no devices'),
  other('KDUMP   ', 'a memory-only dump in kdump format: guest memory, but no devices'),
  other('makedumpfile', 'a memory-only dump of makedumpfile: guest memory, but no devices'),
  other(
    'QCPR',
    'the side stream of a checkpoint-restart (CPR), which holds descriptors and no state',
  ),
  other('MVEQ', 'a stream whose bytes are swapped in words of 32 bits'),
  other(
    '\x11\x22\x33\x44',
    'a multifd channel: the main channel, which begins with QEVM, belongs to it',
  ),
  other('\x16\x03', 'a recorded TLS connection, which is encrypted'),
  other(
    'LUKS\xba\xbe',
    'a LUKS volume: with the key, qemu-nbd exports what is in it ' +
      '(qemu-nbd -r --object secret,id=key,file=KEYFILE ' +
      '--image-opts driver=luks,key-secret=key,file.filename=VOLUME)',
  ),
];

/**
 * Return the kind of a file.
 *
 * @param bytes - The first `SNIFF_SIZE` bytes, or all bytes of a shorter file.
 * @returns null for an unknown kind.
 */
export function sniffContainer(bytes: Uint8Array): Container | null {
  for (const [signature, container] of SIGNATURES) {
    if (signature.every((byte, at) => bytes[at] === byte)) return container;
  }
  return null;
}

/**
 * Return whether more bytes may turn a file of unknown kind into one of a known kind.
 *
 * @param bytes - Its first bytes, possibly none.
 */
export function mayBecomeKnown(bytes: Uint8Array): boolean {
  return SIGNATURES.some(
    ([signature]) =>
      bytes.length < signature.length && bytes.every((byte, at) => signature[at] === byte),
  );
}

/** Return whether the kind is a compression. */
export function isCompressed(
  container: Container,
): container is Extract<Container, { readonly kind: Compression }> {
  switch (container.kind) {
    case 'gzip':
    case 'bzip2':
    case 'xz':
    case 'lzop':
    case 'zstd':
      return true;
    case 'qevm':
    case 'libvirt':
    case 'qcow2':
    case 'other':
      return false;
  }
}

/** Describe a file for messages, as a noun phrase. */
export function describeContainer(container: Container | null, bytes: Uint8Array): string {
  if (container === null) {
    const digits = Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0'));
    return `an unknown file that begins with ${digits.join(' ')}`;
  }
  if (isCompressed(container)) return `${container.kind}-compressed data`;
  switch (container.kind) {
    case 'other':
      return container.what;
    case 'qevm':
      return 'a migration stream';
    case 'libvirt':
      return 'a libvirt save image';
    case 'qcow2':
      return 'a qcow2 image';
  }
}

function sign(latin1: string, container: Container): Signature {
  return [Uint8Array.from(latin1, (char) => char.charCodeAt(0)), container];
}

function other(latin1: string, what: string): Signature {
  return sign(latin1, { kind: 'other', what });
}
