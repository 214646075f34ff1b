import { InvalidArgumentError } from 'commander';
import { parseSize } from './sizes.ts';

/*
 * Parsers of the values of options. A value that does not fit ends the command as a usage error.
 */

/** More than QEMU's 255 multifd channels, the main channel and the postcopy-preempt channel. */
const MAX_CHANNELS = 1024;
const MAX_RECORD_SECONDS = 86_400;

/** Parse bytes per second, such as `100MiB`. */
export function parseBandwidth(text: string): number {
  const size = parseSize(text);
  if (size !== undefined) return size;
  throw new InvalidArgumentError('Give bytes per second, such as 100MiB, 1.5G or 1048576.');
}

/** Parse `BLOCK=ADDRESS`, and add it to the earlier ones. */
export function parsePlacement(
  text: string,
  earlier: ReadonlyMap<string, number> = new Map(),
): ReadonlyMap<string, number> {
  const [, block, digits] = /^(.+)=(0x[0-9a-f]{1,14}|\d{1,16})$/i.exec(text) ?? [];
  const address = Number(digits);
  if (block === undefined || !Number.isSafeInteger(address)) {
    throw new InvalidArgumentError('Give BLOCK=ADDRESS, such as dimm0=0x140000000.');
  }
  return new Map([...earlier, [block, address]]);
}

/** Parse `OLD=NEW`, and add it to the earlier ones. */
export function parseRenaming(
  text: string,
  earlier: ReadonlyMap<string, string> = new Map(),
): ReadonlyMap<string, string> {
  const [, old, renamed] = /^([^=]+)=([^=]+)$/.exec(text) ?? [];
  if (old === undefined || renamed === undefined || earlier.has(old)) {
    throw new InvalidArgumentError('Give OLD=NEW, such as pc.ram=mem, once for each block.');
  }
  return new Map([...earlier, [old, renamed]]);
}

/** Parse a number of seconds. */
export function parseSeconds(text: string): number {
  const seconds = /^\d{1,5}(?:\.\d{1,3})?$/.test(text) ? Number(text) : Number.NaN;
  if (seconds <= MAX_RECORD_SECONDS) return seconds;
  throw new InvalidArgumentError(`Give seconds from 0 to ${MAX_RECORD_SECONDS}.`);
}

/** Parse a number of connections. */
export function parseChannels(text: string): number {
  const count = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= MAX_CHANNELS) return count;
  throw new InvalidArgumentError(`Give a number from 1 to ${MAX_CHANNELS}.`);
}

/** Collect the values of a repeatable option. */
export function collect(value: string, previous: string[] = []): string[] {
  return [...previous, value];
}
