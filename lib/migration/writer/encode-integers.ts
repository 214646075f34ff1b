/** Return a big-endian 32-bit integer. */
export function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** Return a big-endian 64-bit integer. */
export function be64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/**
 * Return a length byte and text.
 *
 * @throws RangeError if the text does not have 1 to 255 bytes.
 */
export function counted(text: string): Buffer {
  const bytes = Buffer.from(text);
  if (bytes.length === 0 || bytes.length > 255) {
    throw new RangeError(`a name of ${bytes.length} bytes does not fit in 1 to 255`);
  }
  return Buffer.concat([Uint8Array.of(bytes.length), bytes]);
}
