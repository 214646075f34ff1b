import type tls from 'node:tls';

/** Return Node's TLS. Its modules take milliseconds to load, and most connections are plain. */
export function loadTls(): typeof tls {
  return process.getBuiltinModule('node:tls');
}
