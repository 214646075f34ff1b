/*
 * Views of shared memory on their way to a thread. The memory itself goes with the first of them only: V8 counts it
 * in the thread each time it arrives, and collects garbage for it, which takes longer than the work.
 */

/** Memory that a thread remembers. A writer uses about 20 at a time. */
const MAX_SLOTS = 32;

/** A view as it is sent. */
export interface SentView {
  readonly slot: number;
  /** Only if the slot does not have it yet. */
  readonly memory: SharedArrayBuffer | undefined;
  readonly at: number;
  readonly length: number;
}

/** Knows which memory a thread remembers: in the thread that sends. */
export class SentMemory {
  readonly #slots: Map<SharedArrayBuffer, number> = new Map();
  readonly #memories: SharedArrayBuffer[] = [];
  #next = 0;

  /** Return a view of shared memory as it is to be sent; it must be sent next. */
  view({ buffer, byteOffset: at, length }: Uint8Array): SentView {
    const memory = buffer as SharedArrayBuffer;
    const known = this.#slots.get(memory);
    if (known !== undefined) return { slot: known, memory: undefined, at, length };
    const slot = this.#next;
    const old = this.#memories[slot];
    if (old !== undefined) this.#slots.delete(old);
    this.#slots.set(memory, slot);
    this.#memories[slot] = memory;
    this.#next = (slot + 1) % MAX_SLOTS;
    return { slot, memory, at, length };
  }
}

/** Remembers memory: in the thread that receives. */
export class ReceivedMemory {
  readonly #memories: SharedArrayBuffer[] = [];

  /** Return the view that was sent. Views must come in the order in which they were sent. */
  view({ slot, memory, at, length }: SentView): Uint8Array {
    if (memory !== undefined) this.#memories[slot] = memory;
    return new Uint8Array(this.#memories[slot] as SharedArrayBuffer, at, length);
  }
}
