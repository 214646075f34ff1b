import type { QemuFile } from '../../qemu-file/qemu-file.ts';

/** What a connection is by its first bytes. `empty`: it ended without any. */
export type ChannelKind = 'main' | 'multifd' | 'empty' | 'unknown';

/** How many bytes tell. */
export const CHANNEL_START_SIZE = 4;

/** More than a channel of multifd introduces itself with. */
const INTRODUCTION_LIMIT = 4096;

/** "QEVM". */
const STREAM_MAGIC = 0x5145564d;
const MULTIFD_MAGIC = 0x11223344;
/** A main channel on which postcopy is resumed has no header: it begins with a command. */
const COMMAND = 0x08;

/** Tells by the first four bytes what a connection is; no other channel begins with a byte of 8. */
export function kindOfChannel(start: Uint8Array): ChannelKind {
  if (start.length === 0) return 'empty';
  if (start.length < CHANNEL_START_SIZE) return 'unknown';
  const magic = new DataView(start.buffer, start.byteOffset).getUint32(0);
  if (magic === STREAM_MAGIC || start[0] === COMMAND) return 'main';
  return magic === MULTIFD_MAGIC ? 'multifd' : 'unknown';
}

/** Waits for the first bytes, and consumes none. */
export async function peekChannelKind(file: QemuFile, signal: AbortSignal): Promise<ChannelKind> {
  const there = await file.fillOrEnd(CHANNEL_START_SIZE, { signal });
  return kindOfChannel(file.peekBuffer(Math.min(there, CHANNEL_START_SIZE)));
}

/** Waits until a connection ends, or has sent more than an introduction. */
export async function hasEnded(file: QemuFile, signal: AbortSignal): Promise<boolean> {
  return (await file.fillOrEnd(INTRODUCTION_LIMIT, { signal })) < INTRODUCTION_LIMIT;
}
