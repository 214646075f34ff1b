import { ITEM, MULTIFD_MAGIC, STREAM_MAGIC } from './wire.ts';

/** The kind of a migration channel, by its first bytes. `empty`: it ended without any. */
export type ChannelKind = 'main' | 'multifd' | 'empty' | 'unknown';

/** Number of bytes from which the kind of a channel is known. */
export const CHANNEL_START_SIZE = 4;

/**
 * Return the kind of a channel that begins with `start`.
 *
 * A main channel on which postcopy is resumed has no header. It begins with a command, whose type byte
 * no other channel begins with.
 */
export function kindOfChannel(start: Uint8Array): ChannelKind {
  if (start.length === 0) return 'empty';
  if (start.length < CHANNEL_START_SIZE) return 'unknown';
  const magic = new DataView(start.buffer, start.byteOffset).getUint32(0);
  if (magic === STREAM_MAGIC || start[0] === ITEM.COMMAND) return 'main';
  return magic === MULTIFD_MAGIC ? 'multifd' : 'unknown';
}
