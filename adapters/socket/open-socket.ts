import type { ConnectionOptions } from 'node:tls';
import type { QemuFileOps } from '../../lib/contract/ops.ts';
import { connectSocket } from './connect.ts';
import { type AdmissionOptions, admit, MAX_PENDING_CONNECTIONS } from './listen/admit.ts';
import { type ListenOptions, listenSocket } from './listen/listen.ts';
import { socketOps } from './socket.ts';
import type { SocketTarget } from './socket-target.ts';

/** How `acceptOne` listens. */
export interface AcceptOneOptions extends Omit<ListenOptions, 'backlog'> {
  /** As for `openFrom`. */
  admission: AdmissionOptions | undefined;
  /** As for `openFrom`. */
  onListening: ((address: SocketTarget) => void) | undefined;
}

/** How `connectOne` connects. */
export interface ConnectOneOptions {
  signal: AbortSignal | undefined;
  tls: ConnectionOptions | undefined;
  closeNotify: boolean;
}

/** Listen for one connection, and return it as a backend. */
export async function acceptOne(
  target: SocketTarget,
  { admission, onListening, ...options }: AcceptOneOptions,
): Promise<QemuFileOps> {
  const backlog = admission && (admission.maxPending ?? MAX_PENDING_CONNECTIONS);
  let listener = await listenSocket(target, { ...options, backlog });
  try {
    if (admission !== undefined) listener = admit(listener, admission);
    onListening?.(listener.address);
    return socketOps(await listener.accept({ signal: options.signal }), { closeNotify: false });
  } finally {
    await listener.close();
  }
}

/** Connect, and return the connection as a backend. */
export async function connectOne(
  target: SocketTarget,
  { signal, tls, closeNotify }: ConnectOneOptions,
): Promise<QemuFileOps> {
  return socketOps(await connectSocket(target, { signal, tls }), { closeNotify });
}
