import type { Command } from '../format/events.ts';
import { COMMAND } from '../format/wire.ts';
import { be32, be64, counted } from './encode-integers.ts';

/** A command whose payload follows from its fields; a package is written with `beginPackage`. */
export type WritableCommand = Exclude<Command, { name: 'UNKNOWN' } | { name: 'PACKAGED' }>;

/** The payload of a command that this package does not know, as it came. */
export interface RawCommand {
  readonly number: number;
  readonly payload: Uint8Array;
}

/** A range of bytes in a RAM block. */
interface Range {
  readonly start: number;
  readonly length: number;
}

const NO_PAYLOAD = new Uint8Array(0);
const DISCARD_VERSION = 0;
const MAX_PAYLOAD_BYTES = 65_535;

/**
 * Return the number and the payload of a command.
 *
 * @throws RangeError for a value that does not fit.
 * @see QEMU `qemu_savevm_command_send` in migration/savevm.c
 */
export function encodeCommand(command: WritableCommand): RawCommand {
  const number = COMMAND[command.name];
  const payload = payloadOf(command);
  if (payload.length > MAX_PAYLOAD_BYTES) {
    throw new RangeError(
      `${command.name} of ${payload.length} bytes, at most ${MAX_PAYLOAD_BYTES}`,
    );
  }
  return { number, payload };
}

function payloadOf(command: WritableCommand): Uint8Array {
  switch (command.name) {
    case 'PING':
      return be32(command.value);
    case 'POSTCOPY_ADVISE': {
      const { pageSizes, targetPageSize } = command;
      if (pageSizes === undefined || targetPageSize === undefined) return NO_PAYLOAD;
      return Buffer.concat([be64(pageSizes), be64(targetPageSize)]);
    }
    case 'POSTCOPY_RAM_DISCARD':
      return discard(command.block, command.ranges);
    case 'RECV_BITMAP':
      return counted(command.block);
    case 'OPEN_RETURN_PATH':
    case 'POSTCOPY_LISTEN':
    case 'POSTCOPY_RUN':
    case 'ENABLE_COLO':
    case 'POSTCOPY_RESUME':
    case 'SWITCHOVER_START':
      return NO_PAYLOAD;
  }
}

function discard(block: string, ranges: readonly Range[]): Buffer {
  if (ranges.length === 0) throw new RangeError('POSTCOPY_RAM_DISCARD without a range');
  const parts = [Uint8Array.of(DISCARD_VERSION), counted(block), Uint8Array.of(0)];
  for (const { start, length } of ranges) parts.push(be64(start), be64(length));
  return Buffer.concat(parts);
}
