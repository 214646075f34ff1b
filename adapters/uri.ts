import { checkString } from '../lib/contract/argument-error.ts';
import { QemuFileError } from '../lib/contract/errors.ts';
import { fitsSocketPath, socketPathLimit } from './socket/socket-path.ts';

/** A parsed URI: where a migration comes from or goes to. */
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

/** All forms of a URI, for messages and help texts. */
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
 * Parse a URI of QEMU's, a path, or `-`.
 *
 * Text without a colon before its first slash is a path. Write a path with one as `./foo:x` or
 * `file:foo:x`. The number in `,offset=N` is decimal, or hexadecimal after `0x`, or has one
 * of QEMU's size suffixes `k`, `M`, `G`, `T`, `P`, `E` (powers of 1024), as in `1.5M`.
 *
 * @param text - As typed into QEMU's `migrate` or after its `-incoming`.
 * @returns The scheme and its parts; `port` is 0 … 65535, `offset` in bytes, 0 … 2^53-1.
 * @throws {TypeError} if `text` is not a string.
 * @throws {QemuFileError} `EINVAL` for an unknown scheme, a missing part, an invalid number or too long a path
 *   of a unix socket; `ENOTSUP` for `vsock:` and `rdma:`.
 *
 * @example
 * ```js
 * parseUri('tcp:[::1]:4444');            // { scheme: 'tcp', host: '::1', port: 4444 }
 * parseUri('file:/tmp/save,offset=4k');  // { scheme: 'file', path: '/tmp/save', offset: 4096 }
 * ```
 */
export function parseUri(text: string): Uri {
  checkString('parseUri', 'text', text);
  if (text === '-') return { scheme: 'stdio' };
  if (text === '') throw uriError('EINVAL', `the endpoint is empty; write ${URI_FORMS}`);
  if (text.includes('\0')) throw uriError('EINVAL', 'an endpoint must not contain NUL');
  const before = text.split('/', 1)[0] as string;
  const colon = before.indexOf(':');
  if (colon < 0) return { scheme: 'file', path: text, offset: 0 };
  const parse = SCHEMES.get(text.slice(0, colon));
  if (parse !== undefined) return parse(text.slice(colon + 1), text);
  throw uriError(
    'EINVAL',
    `${text}: unknown scheme "${text.slice(0, colon)}:"; known are ${URI_FORMS};` +
      ` write a path with a colon as ./${text} or file:${text}`,
  );
}

function parseTcp(rest: string, text: string): Uri {
  if (rest.includes(',')) {
    const reason = 'options after a comma (to=, ipv4, ipv6 …) are not supported; remove them';
    throw uriError('EINVAL', `${text}: ${reason}`);
  }
  const [, bracketed, plain, digits] = /^(?:\[([^\]]*)\]|([^:[\]]*)):([^:]*)$/.exec(rest) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || digits === undefined) {
    const hint = 'write tcp:host:port, and an IPv6 address in brackets, as in tcp:[::1]:4444';
    throw uriError('EINVAL', `${text}: ${hint}`);
  }
  if (bracketed === '')
    throw uriError(
      'EINVAL',
      `${text}: the brackets are empty; write an IPv6 address, as in tcp:[::1]:4444`,
    );
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
    const hint = 'write its number, as in fd:3 (only QEMU knows descriptors by name)';
    throw uriError('EINVAL', `${text}: "${rest}" is not a descriptor; ${hint}`);
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
    const hint = 'write one as in 4096, 0x1000, 4k or 1.5M';
    throw uriError('EINVAL', `${text}: "${given}" is not an offset in bytes; ${hint}`);
  }
  return { scheme: 'file', path, offset };
}

/** Return a size in bytes, by the rules of QEMU's `qemu_strtosz`; NaN if invalid or not a whole number. */
function parseSize(text: string): number {
  if (/^0x[0-9a-f]+$/i.test(text)) return Number(text);
  const [, digits, suffix = 'B'] = /^(\d+(?:\.\d+)?)([BKMGTPE])?$/i.exec(text) ?? [];
  const size = Number(digits) * 1024 ** 'BKMGTPE'.indexOf(suffix.toUpperCase());
  return Number.isInteger(size) ? size : Number.NaN;
}

function refuseVsock(_rest: string, text: string): never {
  const reason = 'not supported, because Node has no vsock sockets';
  const advice = 'use another program, as in "exec:socat - VSOCK-CONNECT:cid:port"';
  throw uriError('ENOTSUP', `${text}: ${reason}; ${advice}`);
}

function refuseRdma(_rest: string, text: string): never {
  const reason = 'not supported, because with RDMA pages do not travel in the stream; use tcp:';
  throw uriError('ENOTSUP', `${text}: ${reason}`);
}

function uriError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'parseUri' });
}
