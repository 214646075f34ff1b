import type { OpenFromOptions } from '../../../adapters/open.ts';
import type { Rejection, Verdict } from '../../../adapters/socket/listen/admit.ts';
import { describeTarget } from '../../../adapters/socket/socket-target.ts';
import {
  describeContainer,
  mayBecomeKnown,
  sniffContainer,
} from '../../migration/containers/sniff.ts';
import { COMMAND, ITEM, MULTIFD_MAGIC } from '../../migration/format/wire.ts';
import { printStderr } from '../shell/stdio.ts';
import type { Endpoint } from './endpoint.ts';
import type { TlsEnds } from './tls/credentials.ts';
import { rejectionHint } from './tls/hints.ts';

/** Which connections a listening command accepts. */
export interface FilterOptions {
  from: Endpoint;
  /** Accept any peer that sends something, not only migration streams and their containers. */
  anything?: boolean | undefined;
  /** How the listening end speaks TLS, if it does. */
  tls?: TlsEnds | undefined;
  quiet: boolean;
}

/** Most lines about rejected connections, so that a flood of connections does not flood the terminal. */
const MAX_LINES = 5;
const FIRST_BYTE_MS = 10_000;
const TLS_HANDSHAKE = 0x16;
const COMMANDS: ReadonlySet<number> = new Set(Object.values(COMMAND));

/** Return the admission options for `openFrom`, or for `listenSocket` and `admit`. */
export function connectionFilter({
  from,
  anything,
  tls,
  quiet,
}: FilterOptions): Required<Pick<OpenFromOptions, 'admission' | 'onConnectionError'>> {
  const where = 'host' in from || from.scheme === 'unix' ? describeTarget(from) : from.scheme;
  let lines = 0;
  const print = (line: string): void => {
    lines += 1;
    if (quiet || lines > MAX_LINES) return;
    const last = lines === MAX_LINES ? '; further rejected connections are not reported' : '';
    void printStderr(`${where}: ${line}${last}`);
  };
  return {
    admission: {
      firstByteMs: FIRST_BYTE_MS,
      ...(anything === true ? {} : { classify: classifyMigrationStart }),
      onRejected: (rejection) =>
        print(describeRejection(rejection) + rejectionHint(rejection, tls)),
    },
    onConnectionError: (error) => print(`rejected a connection: ${error.message}`),
  };
}

/** Accept a migration stream, a further channel of one, and the containers that a stream may be in. */
export function classifyMigrationStart(start: Buffer): Verdict {
  if (start[0] === ITEM.COMMAND) return classifyCommand(start);
  const container = sniffContainer(start);
  if (container === null) return mayBecomeKnown(start) ? 'more' : 'reject';
  return container.kind !== 'other' || isMultifd(start) ? 'accept' : 'reject';
}

/** A stream that resumes a postcopy migration has no header: it begins with a command. */
function classifyCommand(start: Buffer): Verdict {
  if (start.length < 3) return (start[1] ?? 0) === 0 ? 'more' : 'reject';
  return COMMANDS.has(start.readUInt16BE(1)) ? 'accept' : 'reject';
}

function isMultifd(start: Buffer): boolean {
  return start.length >= 4 && start.readUInt32BE(0) === MULTIFD_MAGIC;
}

function describeRejection(rejection: Rejection): string {
  const from = rejection.peer === undefined ? '' : ` from ${rejection.peer}`;
  return `rejected a connection${from}: ${describeReason(rejection)}`;
}

function describeReason({ reason, start, error }: Rejection): string {
  const sent = start.length === 0 ? 'nothing' : `only ${start.length} bytes`;
  switch (reason) {
    case 'unrecognised':
      if (start[0] === TLS_HANDSHAKE) {
        return 'the peer speaks TLS, but this end does not (see --from-tls)';
      }
      return `the peer sent ${describeContainer(sniffContainer(start), start)}, not a migration stream`;
    case 'timeout':
      return `the peer sent ${sent} within ${FIRST_BYTE_MS / 1000} s`;
    case 'evicted':
      return `the peer sent ${sent}, and newer connections took its place`;
    case 'queue-full':
      return 'too many connections are waiting';
    case 'closed':
      return error === undefined
        ? `the peer closed it after sending ${sent}`
        : `the connection failed: ${error.message}`;
  }
}
