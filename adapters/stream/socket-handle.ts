/*
 * Node has no public way to a socket's descriptor, nor to its waits. `_handle` is a libuv handle in Node 20 to
 * 26, and its `fd` is the descriptor on all systems but Windows. Without one, `descriptorOf` returns -1 and
 * callers do without.
 */

/** Lower descriptors are shared with the process that started this one, which can make them blocking. */
export const FIRST_OWN_FD = 3;

/** The handle of a connected socket or pipe, as far as it is used here. */
export interface StreamHandle {
  readonly fd: number;
  /** Whether libuv waits for bytes. Node looks at it before each of its own starts. */
  reading: boolean;
  /** Called by libuv after each read. */
  onread: () => void;
  /** Return 0, or a libuv error. */
  readStart(): number;
  /** Return 0, or a libuv error. */
  readStop(): number;
  /** Read into this memory from now on. */
  useUserBuffer(buffer: Uint8Array): void;
}

/** Return whether a stream has a libuv handle, and so is done with a buffer once its write calls back. */
export function hasHandle(stream: object): boolean {
  return handleOf(stream) !== undefined;
}

/** Return the descriptor of a socket or pipe, -1 if there is none. It remains Node's to close. */
export function descriptorOf(stream: object): number {
  const fd = handleOf(stream)?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : -1;
}

/** Return the handle of a socket or pipe; undefined if it is closed, or not as expected. */
export function streamHandleOf(stream: object): StreamHandle | undefined {
  const handle = handleOf(stream);
  if (handle === undefined || descriptorOf(stream) < 0) return undefined;
  const { reading, onread, readStart, readStop, useUserBuffer } = handle;
  const areMethods = [onread, readStart, readStop, useUserBuffer].every(
    (method) => typeof method === 'function',
  );
  return areMethods && typeof reading === 'boolean' ? (handle as StreamHandle) : undefined;
}

function handleOf(stream: object): Partial<StreamHandle> | undefined {
  return (stream as { _handle?: Partial<StreamHandle> | null })._handle ?? undefined;
}
