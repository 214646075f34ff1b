import { argumentError } from '../../lib/contract/argument-error.ts';

/** An address on the network, or the path of a unix socket. */
export type SocketTarget =
  | {
      /** Name or address; an empty one means this machine (127.0.0.1). */
      host: string;
      /** 0 … 65535; when listening, 0 has the system choose one. */
      port: number;
    }
  | {
      /** Path of a unix socket, at most 107 bytes on Linux and 103 elsewhere. */
      path: string;
    };

/** Return a target as a URI: `tcp:localhost:4444`, `tcp:[::1]:4444`, `unix:/run/vm.sock`. */
export function describeTarget(target: SocketTarget): string {
  const { path, host: name } = (target ?? {}) as { path?: unknown; host?: unknown };
  if (typeof path !== 'string' && typeof name !== 'string') {
    const allowed = '{ host, port } or { path }, with a string for the host or the path';
    throw argumentError('SocketTarget', 'the target', allowed, target);
  }
  if ('path' in target) return `unix:${target.path}`;
  const host = target.host.includes(':') ? `[${target.host}]` : target.host;
  return `tcp:${host}:${target.port}`;
}
