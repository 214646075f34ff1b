/*
 * Node has no public way to a socket's descriptor. `_handle` is a libuv handle in Node 20 to 26, and its `fd`
 * is the descriptor on all systems but Windows. Without one, `descriptorOf` returns -1 and callers do
 * without.
 */

/** Lower descriptors are shared with the process that started this one, which can make them blocking. */
export const FIRST_OWN_FD = 3;

/** Return whether a stream has a libuv handle, and so is done with a buffer once its write calls back. */
export function hasHandle(stream: object): boolean {
  return handleOf(stream) !== undefined;
}

/** Return the descriptor of a socket or pipe, -1 if there is none. It remains Node's to close. */
export function descriptorOf(stream: object): number {
  const fd = handleOf(stream)?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : -1;
}

function handleOf(stream: object): { fd?: unknown } | undefined {
  return (stream as { _handle?: { fd?: unknown } | null })._handle ?? undefined;
}
