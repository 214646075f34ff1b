import type { Command } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { COMMAND, LIMIT } from '../format/wire.ts';
import { blockFault, type GuestMemory, rangeFault } from './guest-ranges.ts';

/** A command and its place in a stream. */
export interface CommandItem {
  /** Offset in the stream of its type byte. */
  readonly offset: number;
  /** Bytes from the type byte to the end of the payload; a package follows after them. */
  readonly bytes: number;
  readonly number: number;
  readonly command: Command;
}

/** Layout of a command's payload. */
interface Layout {
  readonly name: Exclude<Command['name'], 'UNKNOWN'>;
  /** The valid lengths, for messages. */
  readonly lengths: string;
  fits(length: number): boolean;
  /** Decode the payload. All of its bytes are available. */
  read(input: StreamInput, length: number, memory: GuestMemory | null): Command | Promise<Command>;
}

/** Bytes of the type, the number and the length. */
const HEADER_BYTES = 5;
/** Bytes of the shortest DISCARD: version, a name of one byte, a zero, one range. */
const MIN_DISCARD_BYTES = 20;
/** Bytes of a range's start and length. */
const RANGE_BYTES = 16;

/**
 * Read a command, after its type byte. Of a package, only the size is read.
 *
 * @param memory - The guest's RAM blocks, once known: block names and ranges are checked against them.
 * @returns The command; `UNKNOWN` for a number that this package does not know, with its payload skipped.
 * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`, `unsupported`.
 * @see QEMU `loadvm_process_command` in migration/savevm.c
 */
export async function readCommand(
  input: StreamInput,
  memory: GuestMemory | null = null,
): Promise<CommandItem> {
  const offset = input.position - 1;
  await input.need(HEADER_BYTES - 1, 'the header of a command');
  const number = input.be16();
  const length = input.be16();
  if (number === 0) throw input.error('corrupt', 'command number 0 is never sent', offset + 1);
  const command = await readPayload(input, number, length, memory);
  return { offset, bytes: HEADER_BYTES + length, number, command };
}

async function readPayload(
  input: StreamInput,
  number: number,
  length: number,
  memory: GuestMemory | null,
): Promise<Command> {
  const layout = LAYOUTS.get(number);
  if (layout === undefined) {
    await input.skip(length, `the payload of unknown command ${number}`);
    return { name: 'UNKNOWN' };
  }
  if (!layout.fits(length)) {
    const reason = `${layout.name} has ${length} bytes of payload, not ${layout.lengths}`;
    throw input.error('corrupt', reason, input.position - 2);
  }
  await input.need(length, `the payload of ${layout.name}`);
  return layout.read(input, length, memory);
}

type BareName =
  | 'OPEN_RETURN_PATH'
  | 'POSTCOPY_LISTEN'
  | 'POSTCOPY_RUN'
  | 'ENABLE_COLO'
  | 'POSTCOPY_RESUME'
  | 'SWITCHOVER_START';

/** A command without a payload. */
function bare(name: BareName): Layout {
  return { name, lengths: '0', fits: (length) => length === 0, read: () => ({ name }) };
}

const LAYOUTS: ReadonlyMap<number, Layout> = new Map<number, Layout>([
  [COMMAND.OPEN_RETURN_PATH, bare('OPEN_RETURN_PATH')],
  [
    COMMAND.PING,
    {
      name: 'PING',
      lengths: '4',
      fits: (length) => length === 4,
      read: (input) => ({ name: 'PING', value: input.be32() }),
    },
  ],
  [
    COMMAND.POSTCOPY_ADVISE,
    {
      name: 'POSTCOPY_ADVISE',
      lengths: '0 or 16',
      fits: (length) => length === 0 || length === 16,
      read: readAdvise,
    },
  ],
  [COMMAND.POSTCOPY_LISTEN, bare('POSTCOPY_LISTEN')],
  [COMMAND.POSTCOPY_RUN, bare('POSTCOPY_RUN')],
  [
    COMMAND.POSTCOPY_RAM_DISCARD,
    {
      name: 'POSTCOPY_RAM_DISCARD',
      lengths: `${MIN_DISCARD_BYTES} or more`,
      fits: (length) => length >= MIN_DISCARD_BYTES,
      read: readDiscard,
    },
  ],
  [
    COMMAND.PACKAGED,
    { name: 'PACKAGED', lengths: '4', fits: (length) => length === 4, read: readPackaged },
  ],
  [COMMAND.ENABLE_COLO, bare('ENABLE_COLO')],
  [COMMAND.POSTCOPY_RESUME, bare('POSTCOPY_RESUME')],
  [
    COMMAND.RECV_BITMAP,
    {
      name: 'RECV_BITMAP',
      lengths: '2 to 256',
      fits: (length) => length >= 2 && length <= 256,
      read: readRecvBitmap,
    },
  ],
  [COMMAND.SWITCHOVER_START, bare('SWITCHOVER_START')],
]);

function readAdvise(input: StreamInput, length: number, memory: GuestMemory | null): Command {
  if (length === 0) return { name: 'POSTCOPY_ADVISE' };
  const at = input.position;
  const pageSizes = input.be64();
  const page = input.be64();
  if (pageSizes === 0n) {
    throw input.error('corrupt', 'POSTCOPY_ADVISE has no host page size', at);
  }
  const targetPageSize = Number(page);
  // The bounds keep the number exact.
  if (page < 256n || page > 65_536n || (targetPageSize & (targetPageSize - 1)) !== 0) {
    const reason = `POSTCOPY_ADVISE has a target page size of ${page}, not a power of 2 from 256 to 65536`;
    throw input.error('corrupt', reason, at + 8);
  }
  if (memory !== null && memory.pageSize !== targetPageSize) {
    const reason = `POSTCOPY_ADVISE has a target page size of ${page}, but the stream has pages of ${memory.pageSize} bytes`;
    throw input.error('corrupt', reason, at + 8);
  }
  return { name: 'POSTCOPY_ADVISE', pageSizes, targetPageSize };
}

async function readDiscard(
  input: StreamInput,
  length: number,
  memory: GuestMemory | null,
): Promise<Command> {
  const version = input.u8();
  if (version !== 0) {
    const reason = `POSTCOPY_RAM_DISCARD has version ${version}, not 0`;
    throw input.error('unsupported', reason, input.position - 1);
  }
  const nameAt = input.position;
  const nameLength = input.file.peekByte(0);
  // Without the version, the name's length and the zero after the name.
  const rest = length - 3 - nameLength;
  if (nameLength === 0 || rest < RANGE_BYTES || rest % RANGE_BYTES !== 0) {
    const reason = `POSTCOPY_RAM_DISCARD of ${length} bytes cannot have a name of ${nameLength} bytes and whole ranges`;
    throw input.error('corrupt', reason, nameAt);
  }
  const block = await input.counted('the block name of POSTCOPY_RAM_DISCARD');
  const fault = memory === null ? null : blockFault(memory, block);
  if (fault !== null) throw input.error('corrupt', `POSTCOPY_RAM_DISCARD: ${fault}`, nameAt);
  const zero = input.u8();
  if (zero !== 0) {
    const reason = `POSTCOPY_RAM_DISCARD has byte ${zero} after the block name, not 0`;
    throw input.error('corrupt', reason, input.position - 1);
  }
  const ranges: { start: number; length: number }[] = [];
  for (let left = rest; left > 0; left -= RANGE_BYTES) ranges.push(readRange(input, block, memory));
  return { name: 'POSTCOPY_RAM_DISCARD', block, ranges };
}

function readRange(
  input: StreamInput,
  block: string,
  memory: GuestMemory | null,
): { start: number; length: number } {
  const at = input.position;
  const start = input.be64();
  const length = input.be64();
  if (start + length > LIMIT.RAM) {
    const reason = `POSTCOPY_RAM_DISCARD: ${length} bytes from offset ${start} exceed any RAM block`;
    throw input.error('corrupt', reason, at);
  }
  const range = { start: Number(start), length: Number(length) };
  const fault = memory === null ? null : rangeFault(memory, block, range.start, range.length);
  if (fault !== null) throw input.error('corrupt', `POSTCOPY_RAM_DISCARD: ${fault}`, at);
  return range;
}

function readPackaged(input: StreamInput): Command {
  const size = input.be32();
  if (size > LIMIT.PACKAGE) {
    const reason = `a postcopy package of ${size} bytes, more than ${LIMIT.PACKAGE}`;
    throw input.error('corrupt', reason, input.position - 4);
  }
  return { name: 'PACKAGED', size };
}

async function readRecvBitmap(
  input: StreamInput,
  length: number,
  memory: GuestMemory | null,
): Promise<Command> {
  const at = input.position;
  const nameLength = input.file.peekByte(0);
  if (nameLength !== length - 1) {
    const reason = `RECV_BITMAP of ${length} bytes cannot have a block name of ${nameLength} bytes`;
    throw input.error('corrupt', reason, at);
  }
  const block = await input.counted('the block name of RECV_BITMAP');
  const fault = memory === null ? null : blockFault(memory, block);
  if (fault !== null) throw input.error('corrupt', `RECV_BITMAP: ${fault}`, at);
  return { name: 'RECV_BITMAP', block };
}

/** Progress of a migration towards postcopy. */
export type PostcopyState = 'none' | 'advised' | 'discarding' | 'listening' | 'running';

/** The states in which a command may come, and the state after it. */
interface Step {
  readonly from: readonly PostcopyState[];
  readonly to: PostcopyState;
}

const STEPS: ReadonlyMap<Command['name'], Step> = new Map<Command['name'], Step>([
  ['POSTCOPY_ADVISE', { from: ['none'], to: 'advised' }],
  ['POSTCOPY_RAM_DISCARD', { from: ['advised', 'discarding'], to: 'discarding' }],
  ['POSTCOPY_LISTEN', { from: ['advised', 'discarding'], to: 'listening' }],
  ['POSTCOPY_RUN', { from: ['listening'], to: 'running' }],
]);

/** Checks the order of the postcopy commands: ADVISE, any number of DISCARD, LISTEN, RUN. */
export class PostcopyOrder {
  #state: PostcopyState = 'none';

  /** The state after the last command. */
  get state(): PostcopyState {
    return this.#state;
  }

  /**
   * Follow the next command. Commands other than those of postcopy may come in any state.
   *
   * @param input - The input that the command was read from.
   * @throws {MigrationStreamError} `corrupt` if the command must not come in this state.
   */
  follow({ command, offset }: CommandItem, input: StreamInput): void {
    const step = STEPS.get(command.name);
    if (step === undefined) return;
    if (!step.from.includes(this.#state)) {
      const expected = step.from.map((state) => `"${state}"`).join(' or ');
      const reason = `${command.name} came in postcopy state "${this.#state}", not ${expected}`;
      throw input.error('corrupt', reason, offset);
    }
    this.#state = step.to;
  }
}
