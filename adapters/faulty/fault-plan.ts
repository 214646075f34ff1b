import type { QemuFileOps } from '../../lib/contract/ops.ts';

/** The operations that move bytes of the stream. A fault can happen at any byte of each. */
export type ByteOp = 'getBuffer' | 'writevBuffer';

/** The other operations. They can only fail. */
export type OtherOp = Exclude<keyof QemuFileOps, ByteOp | 'sizes'>;

/** A fault at a byte of one direction. */
export type ByteFault = {
  /** The operation, which selects the direction. */
  on: ByteOp;
  /** The byte before which the fault happens, counted from 0 over all calls of the operation. Default 0. */
  at?: number | undefined;
} & (
  | {
      /** The call fails after the bytes before the fault have moved, and so do all later calls. */
      do: 'fail';
      /** Errno name. Default `EIO`. */
      code?: string | undefined;
    }
  /** The connection breaks in both directions and for the peer: `ECONNRESET`. */
  | { do: 'reset' }
  /** Reads report the end. Writes fail with `EPIPE`, and the peer's reads report the end where that is possible. */
  | { do: 'end' }
  /**
   * The call moves only the bytes before the fault: a short read, which the contract allows, or a short write,
   * which it does not allow and which loses the other bytes.
   */
  | { do: 'short' }
  | {
      /** The byte is changed. The buffers of the caller of a write stay as they are. */
      do: 'corrupt';
      /** The value that the byte is XORed with, 1 to 255. Default 255. */
      xor?: number | undefined;
    }
  | {
      /** No byte moves until `release()`, `close()` or a `shutDown()` of the direction. */
      do: 'stall';
      /** Milliseconds after which the stall ends on its own. Default: never. */
      ms?: number | undefined;
    }
  | {
      /** From this byte on, reads return at most `size` bytes, and writes are made in parts of `size` bytes. */
      do: 'trickle';
      /** Bytes, 1 or more. */
      size: number;
    }
  | {
      /**
       * From this byte on, results are promises that resolve some time after the bytes have moved. The peer's reply
       * to these bytes may arrive before that.
       */
      do: 'late';
      /** Turns of the event loop, 0 or more. With 0 the result is only turned into a promise. */
      turns: number;
    }
  /**
   * From this byte on, writes return at once and are made in the background, one after another. Their failure is
   * reported by the next write, by a half-close, or by `close()`. For `writevBuffer` only.
   */
  | { do: 'early' }
);

/** A failure of an operation that moves no bytes. It happens at every call. */
export interface OpFault {
  on: OtherOp;
  do: 'fail';
  /** Errno name. Default `EIO`. */
  code?: string | undefined;
}

/** One fault. It is plain data, so that a plan can be printed and parsed as JSON. */
export type Fault = ByteFault | OpFault;

/** Options of `randomFaults`. */
export interface RandomFaultOptions {
  /** Upper bound of the bytes at which faults happen. Default 1 MiB. */
  bytes?: number | undefined;
  /** Greatest number of faults, 1 or more. Default 4. */
  most?: number | undefined;
}

/**
 * Make a random plan for `faultyOps`. The same seed and options always return the same plan. Its stalls end on
 * their own within a few milliseconds.
 *
 * @param seed - Any integer. Of another number, the fraction is ignored.
 * @param options - `bytes`, `most`.
 * @returns 1 to `most` faults.
 * @example
 * ```js
 * const seed = Number(process.env.SEED ?? Date.now());
 * const faults = randomFaults(seed);
 * console.log(seed, JSON.stringify(faults));
 * ```
 */
export function randomFaults(seed: number, options: RandomFaultOptions = {}): Fault[] {
  const { bytes = 2 ** 20, most = 4 } = options;
  const below = generator(seed);
  const pick = <T>(choices: readonly [T, ...T[]]): T =>
    choices[below(choices.length)] ?? choices[0];
  const draw = (): Fault => {
    if (below(8) === 0) {
      const on = pick<OtherOp>(['close', 'shutDown', 'setBlocking', 'getReturnPath', 'getFd']);
      return { on, do: 'fail', code: pick(CODES) };
    }
    const place = { on: pick<ByteOp>(['getBuffer', 'writevBuffer']), at: below(bytes) };
    switch (pick(KINDS)) {
      case 'fail':
        return { ...place, do: 'fail', code: pick(CODES) };
      case 'reset':
        return { ...place, do: 'reset' };
      case 'end':
        return { ...place, do: 'end' };
      case 'short':
        return { ...place, do: 'short' };
      case 'corrupt':
        return { ...place, do: 'corrupt', xor: 1 + below(255) };
      case 'stall':
        return { ...place, do: 'stall', ms: 1 + below(5) };
      case 'trickle':
        return { ...place, do: 'trickle', size: 512 + below(65536) };
      case 'late':
        return { ...place, do: 'late', turns: below(4) };
      case 'early':
        return { on: 'writevBuffer', at: place.at, do: 'early' };
    }
  };
  return Array.from({ length: 1 + below(most) }, draw);
}

const CODES = ['EIO', 'ENOSPC', 'EPIPE', 'ECONNRESET', 'ETIMEDOUT', 'EAGAIN'] as const;

const KINDS = [
  'fail',
  'reset',
  'end',
  'short',
  'corrupt',
  'stall',
  'trickle',
  'late',
  'early',
] as const;

/** Return a generator of integers from 0 to below a bound. Xorshift, which is not cryptographically secure. */
function generator(seed: number): (bound: number) => number {
  // Xorshift cannot leave the state 0. The multiplication spreads similar seeds.
  let state = Math.imul(seed | 0, 0x9e3779b1) || 1;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}
