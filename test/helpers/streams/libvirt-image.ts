/** What is before the stream in an image that libvirt saves. */
export interface LibvirtParts {
  /** Number of the compression, or of the layout. Default 0: a plain stream. */
  format?: number;
  xml?: string;
  /** Default: none. */
  cookie?: string;
  /** Offset of the stream; zeros fill the room. Default: right after the texts. */
  streamAt?: number;
}

/** Return an image as `virsh save` writes it, of version 2, whose guest was running. */
export function libvirtImage(
  stream: Uint8Array,
  { format = 0, xml = '<domain/>', cookie = '', streamAt }: LibvirtParts = {},
): Buffer {
  const texts = Buffer.from(`${xml}\0${cookie === '' ? '' : `${cookie}\0`}`);
  const dataBytes = streamAt === undefined ? texts.length : streamAt - 92;
  const head = Buffer.alloc(92);
  head.write('LibvirtQemudSave', 'latin1');
  const cookieAt = cookie === '' ? 0 : Buffer.byteLength(xml) + 1;
  for (const [index, value] of [2, dataBytes, 1, format, cookieAt].entries()) {
    head.writeUInt32LE(value, 16 + 4 * index);
  }
  return Buffer.concat([head, texts, Buffer.alloc(dataBytes - texts.length), stream]);
}
