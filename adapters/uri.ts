import { QemuFileError } from '../lib/contract/errors.ts';
import { fitsSocketPath, socketPathLimit } from './socket/socket-path.ts';

/** Where a migration comes from or goes to, taken apart; `parseUri` makes one of text. */
export type Uri =
  /** `tcp:host:port`, where an empty host means this machine. */
  | { scheme: 'tcp'; host: string; port: number }
  /** `unix:path`. */
  | { scheme: 'unix'; path: string }
  /** `fd:N`: a descriptor that this process inherited. */
  | { scheme: 'fd'; fd: number }
  /** `exec:command`, run by `/bin/sh -c`. */
  | { scheme: 'exec'; command: string }
  /** `file:path`, `file:path,offset=N`, or a path alone; `offset` is in bytes. */
  | { scheme: 'file'; path: string; offset: number }
  /** `-`: standard input or output. */
  | { scheme: 'stdio' };

/** All forms there are, for messages and for help texts. */
export const URI_FORMS =
  'tcp:host:port, unix:path, fd:N, exec:command, file:path[,offset=N], a path, or -';

const OFFSET = ',offset=';
const SCHEMES = new Map<string, (rest: string, text: string) => Uri>([
  ['tcp', parseTcp],
  ['unix', parseUnix],
  ['fd', parseFd],
  ['exec', parseExec],
  ['file', parseFile],
  ['vsock', refuseVsock],
  ['rdma', refuseRdma],
]);

/**
 * Takes a URI of QEMU's apart, or a path, or `-`.
 *
 * Text is a path if it has no colon before its first slash; so a path that has one is written
 * `./foo:x` or `file:foo:x`. The number in `,offset=N` is decimal, or hexadecimal after `0x`, or has one
 * of QEMU's size suffixes `k`, `M`, `G`, `T`, `P`, `E` (powers of 1024), as in `1.5M`.
 *
 * @param text - As typed into QEMU's `migrate` or after its `-incoming`.
 * @throws {QemuFileError} `EINVAL` for an unknown scheme, a part that is missing or a number that is none;
 *   `ENOTSUP` for `vsock:` and `rdma:`.
 *
 * @example
 * ```js
 * parseUri('tcp:[::1]:4444');            // { scheme: 'tcp', host: '::1', port: 4444 }
 * parseUri('file:/tmp/save,offset=4k');  // { scheme: 'file', path: '/tmp/save', offset: 4096 }
 * ```
 */
export function parseUri(text: string): Uri {
  if (text === '-') return { scheme: 'stdio' };
  if (text === '') throw uriError('EINVAL', `the endpoint is empty; give ${URI_FORMS}`);
  if (text.includes('\0')) throw uriError('EINVAL', 'an endpoint has no NUL character in it');
  const before = text.split('/', 1)[0] as string;
  const colon = before.indexOf(':');
  if (colon < 0) return { scheme: 'file', path: text, offset: 0 };
  const parse = SCHEMES.get(text.slice(0, colon));
  if (parse !== undefined) return parse(text.slice(colon + 1), text);
  throw uriError(
    'EINVAL',
    `${text}: unknown scheme "${text.slice(0, colon)}:"; known are ${URI_FORMS};` +
      ` a path with a colon is written ./${text} or file:${text}`,
  );
}

function parseTcp(rest: string, text: string): Uri {
  if (rest.includes(',')) {
    const reason = 'options after a comma (to=, ipv4, ipv6 …) are not supported: leave them away';
    throw uriError('EINVAL', `${text}: ${reason}`);
  }
  const [, bracketed, plain, digits] = /^(?:\[([^\]]*)\]|([^:[\]]*)):([^:]*)$/.exec(rest) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || digits === undefined) {
    const hint = 'write tcp:host:port, and an IPv6 address in brackets, as in tcp:[::1]:4444';
    throw uriError('EINVAL', `${text}: ${hint}`);
  }
  if (bracketed === '') throw uriError('EINVAL', `${text}: there is no address in the brackets`);
  const port = /^\d{1,5}$/.test(digits) ? Number(digits) : Number.NaN;
  if (!(port <= 65535)) {
    throw uriError('EINVAL', `${text}: "${digits}" is not a port number in 0…65535`);
  }
  return { scheme: 'tcp', host, port };
}

function parseUnix(rest: string, text: string): Uri {
  if (rest === '')
    throw uriError('EINVAL', `${text}: the path is missing, as in unix:/run/vm.sock`);
  if (!fitsSocketPath(rest)) throw uriError('EINVAL', `${text}: ${socketPathLimit(rest)}`);
  return { scheme: 'unix', path: rest };
}

function parseFd(rest: string, text: string): Uri {
  const fd = /^\d{1,9}$/.test(rest) ? Number(rest) : Number.NaN;
  if (Number.isNaN(fd)) {
    const hint = 'give the number of a descriptor, as in fd:3 (names are known to QEMU alone)';
    throw uriError('EINVAL', `${text}: "${rest}" is none: ${hint}`);
  }
  return { scheme: 'fd', fd };
}

function parseExec(rest: string, text: string): Uri {
  if (rest.trim() === '') {
    throw uriError('EINVAL', `${text}: the command is missing, as in "exec:gzip -c > save.gz"`);
  }
  return { scheme: 'exec', command: rest };
}

function parseFile(rest: string, text: string): Uri {
  const split = rest.indexOf(OFFSET);
  const path = split < 0 ? rest : rest.slice(0, split);
  if (path === '') throw uriError('EINVAL', `${text}: the path is missing, as in file:/tmp/save`);
  const offset = split < 0 ? 0 : parseSize(rest.slice(split + OFFSET.length));
  if (!(offset <= Number.MAX_SAFE_INTEGER)) {
    const given = rest.slice(split + OFFSET.length);
    const hint = 'as in 4096, 0x1000, 4k or 1.5M';
    throw uriError('EINVAL', `${text}: "${given}" is not an offset in bytes, ${hint}`);
  }
  return { scheme: 'file', path, offset };
}

/** Bytes of a size as QEMU's `qemu_strtosz` reads them; NaN if it is none, or not a whole number. */
function parseSize(text: string): number {
  if (/^0x[0-9a-f]+$/i.test(text)) return Number(text);
  const [, digits, suffix = 'B'] = /^(\d+(?:\.\d+)?)([BKMGTPE])?$/i.exec(text) ?? [];
  const size = Number(digits) * 1024 ** 'BKMGTPE'.indexOf(suffix.toUpperCase());
  return Number.isInteger(size) ? size : Number.NaN;
}

function refuseVsock(_rest: string, text: string): never {
  const reason = 'not supported, because Node has no vsock sockets';
  const advice = 'bridge it with another program, as in "exec:socat - VSOCK-CONNECT:cid:port"';
  throw uriError('ENOTSUP', `${text}: ${reason}; ${advice}`);
}

function refuseRdma(_rest: string, text: string): never {
  const reason = 'not supported, because RDMA moves the pages past the stream, by hardware';
  throw uriError('ENOTSUP', `${text}: ${reason} that Node cannot reach; use tcp:`);
}

function uriError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'parseUri' });
}
