import { QemuFile } from '../../qemu-file/qemu-file.ts';
import {
  chooseDescription,
  type FoundDescription,
  type KnownDescription,
} from '../devices/find-vm-description.ts';
import { findEndMark } from '../devices/scan-for-footer.ts';
import { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';

/*
 * The VM description comes after the device sections that it describes. Where it cannot be looked up, the
 * rest of the stream, which is small, is buffered to its end; the description is searched for in the buffer,
 * and then the buffer is read.
 */

const READ_CHUNK_BYTES = 262_144;

/** How often, at most, the bytes so far are searched for a description at their end. */
const MAX_TRIES = 64;
const CLOSING_BRACE = 0x7d;

/** The buffered rest of a stream. */
export interface BufferedTail {
  /** The input to read on with: the buffered bytes, and what comes after them. */
  readonly input: StreamInput;
  /** The VM description in it. */
  readonly found: FoundDescription | null;
  /** Whether sections have footers; null if that is still unknown. */
  readonly hasFooters: boolean | null;
  /** Whether the limit was reached, so that a VM description may follow the buffered bytes. */
  readonly isPartial: boolean;
  /** Whether the source may send more, which was not waited for. */
  readonly isOpen: boolean;
}

/**
 * Buffer the rest of a stream, up to `LIMIT.DEVICE_TAIL` bytes, and find the VM description in it.
 *
 * @param input - An input whose next byte is the first of a device section.
 * @param footers - Whether sections have footers; null if unknown, as in device state of Xen, which has no other
 *   section before.
 * @param staysOpen - Whether the source waits for an answer on the return path and will not end: the wait is
 *   then over when the bytes so far end with a description.
 * @param known - A description that was found before at the end of the file.
 */
export async function bufferDeviceTail(
  input: StreamInput,
  footers: boolean | null,
  staysOpen: boolean,
  known?: KnownDescription,
): Promise<BufferedTail> {
  const base = input.position;
  const hasFooters = footers !== false;
  const pieces: Buffer[] = [];
  let buffered = 0;
  let tries = 0;
  while (buffered < LIMIT.DEVICE_TAIL && !(await input.atEnd())) {
    const piece = input.file.getBuffer(Math.min(input.available, READ_CHUNK_BYTES));
    pieces.push(piece);
    buffered += piece.length;
    if (!staysOpen || input.available > 0 || piece.at(-1) !== CLOSING_BRACE) continue;
    if (++tries > MAX_TRIES) continue;
    const tail = Buffer.concat(pieces);
    const found = chooseDescription(tail, base, hasFooters);
    if (found !== null && found.offset + found.bytes === base + buffered) {
      return tailOf(fileOf([tail]), base, {
        found,
        footers,
        isPartial: false,
        isOpen: true,
      });
    }
  }
  const tail = Buffer.concat(pieces);
  const found = chooseDescription(tail, base, hasFooters, known);
  const isPartial = buffered >= LIMIT.DEVICE_TAIL;
  const knownFooters = footers ?? (found === null && findEndMark(tail) !== null ? true : null);
  return tailOf(fileOf([tail], input), base, {
    found,
    footers: knownFooters,
    isPartial,
    isOpen: false,
  });
}

function tailOf(
  file: QemuFile,
  base: number,
  search: {
    found: FoundDescription | null;
    footers: boolean | null;
    isPartial: boolean;
    isOpen: boolean;
  },
): BufferedTail {
  const { found, footers, isPartial, isOpen } = search;
  return {
    input: new StreamInput(file, base),
    found,
    hasFooters: footers,
    isPartial,
    isOpen,
  };
}

/** Return a file that yields the given buffers, and then the rest of an input. */
function fileOf(buffers: Buffer[], rest?: StreamInput): QemuFile {
  return new QemuFile({
    async getBuffer() {
      const next = buffers.shift();
      if (next !== undefined && next.length > 0) return next;
      if (rest === undefined || (await rest.atEnd())) return 0;
      return rest.file.getBuffer(Math.min(rest.available, READ_CHUNK_BYTES));
    },
  });
}
