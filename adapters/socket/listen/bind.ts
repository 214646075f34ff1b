import type net from 'node:net';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { waitFor } from '../../../lib/contract/wait-for.ts';
import { networkError } from '../network-error.ts';
import { describeTarget, type SocketTarget } from '../socket-target.ts';
import { listenAtPath } from './bind-path.ts';

/** Where a server listens. */
export interface BoundAddress {
  /** With the port that the system chose. */
  readonly address: SocketTarget;
  /** Remove the path of a unix socket; call it before the server closes. */
  readonly removePath: () => Promise<void>;
}

/** Have a server listen, by the rules of `listenSocket`. */
export async function startListening(
  server: net.Server,
  target: SocketTarget,
  backlog: number,
): Promise<BoundAddress> {
  if ('path' in target) {
    const { path } = target;
    const removePath = await listenAtPath(
      path,
      (bindPath) => listen(server, target, { path: bindPath, backlog, exclusive: true }),
      () => server.close(),
    );
    return { address: { path }, removePath };
  }
  // A migration stream holds all of a guest's memory, so the caller must ask for other interfaces.
  const host = target.host === '' ? '127.0.0.1' : target.host;
  await listen(server, target, { host, port: target.port, backlog, exclusive: true });
  const { address, port } = server.address() as net.AddressInfo;
  return { address: { host: address, port }, removePath: async () => {} };
}

function listen(
  server: net.Server,
  target: SocketTarget,
  options: net.ListenOptions,
): Promise<void> {
  return waitFor<void>(
    (resolve, reject) => {
      const onListening = () => resolve();
      const onError = (error: Error) =>
        reject(networkError(error, 'listen', describeTarget(target)));
      server.once('listening', onListening).once('error', onError);
      try {
        server.listen(options);
      } catch (error) {
        // Node throws only for an invalid target.
        const reason = `not a valid address: ${describeTarget(target)}`;
        reject(new QemuFileError('EINVAL', reason, { operation: 'listen', cause: error }));
      }
      return () => server.off('listening', onListening).off('error', onError);
    },
    { operation: 'listen' },
  );
}
