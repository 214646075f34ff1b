import type { OpenFromOptions, Rejection, Uri, Verdict } from '../../../adapters/index.ts';
import { describeTarget } from '../../../adapters/index.ts';
import {
  describeContainer,
  mayBecomeKnown,
  sniffContainer,
} from '../../migration/containers/sniff.ts';
import { COMMAND, ITEM, MULTIFD_MAGIC } from '../../migration/format/wire.ts';
import { printStderr } from '../shell/stdio.ts';
import type { TlsEnds } from './tls-credentials.ts';
import { refusedHint } from './tls-hints.ts';

/** Who is let in where a command listens. */
export interface FilterOptions {
  from: Uri;
  /** Whether whatever sends anything is welcome, not only migration streams and what they are wrapped in. */
  anything?: boolean | undefined;
  /** Whether it speaks TLS. */
  tls?: TlsEnds | undefined;
  quiet: boolean;
}

/** Lines that are written about those who are not let in: a flood of them must not become one of lines. */
const MAX_LINES = 5;
const FIRST_BYTE_MS = 10_000;
const TLS_HANDSHAKE = 0x16;
const COMMANDS: ReadonlySet<number> = new Set(Object.values(COMMAND));

/** Gives what `openFrom`, or `listenSocket` and `admit`, is told about whom to let in. */
export function connectionFilter({
  from,
  anything,
  tls,
  quiet,
}: FilterOptions): Required<Pick<OpenFromOptions, 'admission' | 'onConnectionError'>> {
  const where = 'host' in from || from.scheme === 'unix' ? describeTarget(from) : from.scheme;
  let lines = 0;
  const note = (line: string): void => {
    lines += 1;
    if (quiet || lines > MAX_LINES) return;
    const last = lines === MAX_LINES ? '; no more is said about others' : '';
    void printStderr(`${where}: ${line}${last}`);
  };
  return {
    admission: {
      firstByteMs: FIRST_BYTE_MS,
      ...(anything === true ? {} : { classify: classifyMigrationStart }),
      onRejected: (refusal) => note(describeRefusal(refusal) + refusedHint(refusal, tls)),
    },
    onConnectionError: (error) => note(`refused a connection: ${error.message}`),
  };
}

/** Welcomes a migration stream, also a further channel of one and what it may be wrapped in. */
export function classifyMigrationStart(start: Buffer): Verdict {
  if (start[0] === ITEM.COMMAND) return welcomesCommand(start);
  const container = sniffContainer(start);
  if (container === null) return mayBecomeKnown(start) ? 'more' : 'reject';
  return container.kind !== 'other' || isMultifd(start) ? 'accept' : 'reject';
}

/** A stream on which postcopy is resumed has no header: it begins with a command. */
function welcomesCommand(start: Buffer): Verdict {
  if (start.length < 3) return (start[1] ?? 0) === 0 ? 'more' : 'reject';
  return COMMANDS.has(start.readUInt16BE(1)) ? 'accept' : 'reject';
}

function isMultifd(start: Buffer): boolean {
  return start.length >= 4 && start.readUInt32BE(0) === MULTIFD_MAGIC;
}

function describeRefusal(refusal: Rejection): string {
  const from = refusal.peer === undefined ? '' : ` from ${refusal.peer}`;
  return `refused a connection${from}: ${reasonOf(refusal)}`;
}

function reasonOf({ reason, start, error }: Rejection): string {
  const sent = start.length === 0 ? 'nothing' : `no more than ${start.length} bytes`;
  switch (reason) {
    case 'unrecognised':
      if (start[0] === TLS_HANDSHAKE) return 'it speaks TLS, which is not spoken here';
      return `it sent ${describeContainer(sniffContainer(start), start)}, which is no migration stream`;
    case 'timeout':
      return `it sent ${sent} in ${FIRST_BYTE_MS / 1000} s`;
    case 'evicted':
      return `it sent ${sent}, and too many newer ones came`;
    case 'queue-full':
      return 'too many wait already';
    case 'closed':
      return error === undefined ? `it ended after it sent ${sent}` : `it broke: ${error.message}`;
  }
}
