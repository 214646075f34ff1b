import type { DuplexOps, MaybePromise } from '../../contract/ops.ts';

/**
 * Hold back the last byte of all that is written until the stream ends in order. QEMU waits for it before it runs the
 * guest, so what shows only at the end, a wrong checksum or a fault that the check finds, is still known in time.
 *
 * @param ops - The connection.
 * @param endQemu - Called before this side breaks the connection, after which QEMU would run the guest without the last
 *   byte: it does not look at the description, which is the end of most streams. Not called if QEMU broke it: its guest
 *   may run, because it leaves what follows the stream unread.
 */
export function holdLastByte(ops: DuplexOps, endQemu: () => Promise<void>): DuplexOps {
  let held: Uint8Array | null = null;
  let heldAt = 0;
  let isBroken = false;

  /** Note that the connection failed. */
  async function noting<T>(work: () => MaybePromise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      isBroken = true;
      throw error;
    }
  }

  async function writevBuffer(buffers: readonly Uint8Array[], position: number): Promise<number> {
    const given = buffers.reduce((sum, { length }) => sum + length, 0);
    const last = buffers.findLast(({ length }) => length > 0);
    if (last === undefined) return 0;
    const parts = buffers.map((part) => (part === last ? part.subarray(0, -1) : part));
    const before = held === null ? [] : [held];
    const from = held === null ? position : heldAt;
    // A copy, because the caller may reuse the buffer afterwards.
    held = Uint8Array.from(last.subarray(-1));
    heldAt = position + given - 1;
    if (heldAt === from) return given;
    const taken = await noting(() => ops.writevBuffer([...before, ...parts], from));
    return taken === heldAt - from ? given : -1;
  }

  async function release(): Promise<void> {
    const last = held;
    held = null;
    if (last !== null) await ops.writevBuffer([last], heldAt);
  }

  return {
    ...(ops.sizes && { sizes: ops.sizes }),
    getBuffer: (buffer, position) => noting(() => ops.getBuffer(buffer, position)),
    writevBuffer,
    shutDown: async (read, write) => {
      if (write && !read) await release();
      await ops.shutDown(read, write);
    },
    close: async (error) => {
      if (error === undefined) await release();
      else if (held !== null && !isBroken) await endQemu();
      await ops.close(error);
    },
    getFd: () => ops.getFd(),
  };
}
