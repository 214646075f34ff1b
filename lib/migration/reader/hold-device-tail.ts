import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { chooseDescription } from '../devices/find-vm-description.ts';
import type { VmDescription } from '../format/device-types.ts';
import { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';

/*
 * The VM description comes behind the device sections that it is needed for. Where it cannot be looked
 * up, the rest of the stream, which is small, is held until it ends; then the description is searched
 * for in it, and what was held is read.
 */

const PIECE = 262_144;

/** How often, at most, it is tried whether what was held so far ends with a description. */
const MAX_TRIES = 64;
const CLOSING_BRACE = 0x7d;

/** What was held. */
export interface BufferedTail {
  /** To go on reading with: what was held, and what comes behind it. */
  readonly input: StreamInput;
  readonly description: VmDescription | null;
  /** Offset in the stream of the description's type byte. */
  readonly descriptionAt: number | null;
  /** Whether the stream may go on, but was not waited for. */
  readonly isOpen: boolean;
}

/**
 * Holds the rest of a stream, and finds the description in it.
 *
 * @param input - Its next byte is the first of a device section.
 * @param footers - Whether sections have them.
 * @param staysOpen - The source waits for an answer and will not end: a description at the end of what
 *   has come will do.
 */
export async function bufferDeviceTail(
  input: StreamInput,
  footers: boolean,
  staysOpen: boolean,
): Promise<BufferedTail> {
  const base = input.position;
  const pieces: Buffer[] = [];
  let held = 0;
  let tries = 0;
  while (held < LIMIT.DEVICE_TAIL && !(await input.atEnd())) {
    const piece = input.file.getBuffer(Math.min(input.available, PIECE));
    pieces.push(piece);
    held += piece.length;
    if (!staysOpen || input.available > 0 || piece.at(-1) !== CLOSING_BRACE) continue;
    if (++tries > MAX_TRIES) continue;
    const tail = Buffer.concat(pieces);
    const found = chooseDescription(tail, base, footers);
    if (found !== null && found.offset + found.bytes === base + held) {
      return given(fileOf([tail]), base, found, true);
    }
  }
  const tail = Buffer.concat(pieces);
  const found = chooseDescription(tail, base, footers);
  return given(fileOf([tail], input), base, found, false);
}

function given(
  file: QemuFile,
  base: number,
  found: ReturnType<typeof chooseDescription>,
  isOpen: boolean,
): BufferedTail {
  return {
    input: new StreamInput(file, base),
    description: found?.description ?? null,
    descriptionAt: found?.offset ?? null,
    isOpen,
  };
}

/** A file with the given buffers, and then the rest of an input. */
function fileOf(buffers: Buffer[], rest?: StreamInput): QemuFile {
  return new QemuFile({
    async getBuffer() {
      const next = buffers.shift();
      if (next !== undefined && next.length > 0) return next;
      if (rest === undefined || (await rest.atEnd())) return 0;
      return rest.file.getBuffer(Math.min(rest.available, PIECE));
    },
  });
}
