import type { QemuFileOps } from '../../lib/contract/ops.ts';

/** The operations that move the stream's bytes: faults can happen at any byte of each. */
export type ByteOp = 'getBuffer' | 'writevBuffer';

/** The other operations: they can fail. */
export type OtherOp = Exclude<keyof QemuFileOps, ByteOp | 'sizes'>;

/** A fault in the middle of the bytes of one direction. */
export type ByteFault = {
  /** The operation, and with it the direction. */
  on: ByteOp;
  /** The byte before which it happens, counted over all calls of the operation from 0. Default 0. */
  at?: number | undefined;
} & (
  | {
      /** The call fails once the bytes before have moved, and so do all later ones. */
      do: 'fail';
      /** Errno name. Default `EIO`. */
      code?: string | undefined;
    }
  /** The connection breaks, in both directions and for the other end, too: `ECONNRESET`. */
  | { do: 'reset' }
  /** Reads meet the end; writes fail with `EPIPE`, and the other end sees an end where it can. */
  | { do: 'end' }
  /**
   * The call stops there: a read gives the bytes before, as any may; a write takes them, and the rest is
   * lost, as no backend may.
   */
  | { do: 'short' }
  | {
      /** The byte is changed; what the caller of a write holds is not. */
      do: 'corrupt';
      /** What it is XORed with, 1 to 255. Default 255. */
      xor?: number | undefined;
    }
  | {
      /** Nothing moves, until `release()`, `close()` or a `shutDown()` of the direction. */
      do: 'stall';
      /** Ends it by itself after so many milliseconds. */
      ms?: number | undefined;
    }
  | {
      /** From there on calls move so few bytes each: reads give no more, writes go on in such pieces. */
      do: 'trickle';
      /** Bytes, 1 or more. */
      size: number;
    }
  | {
      /**
       * From there on answers are promises that resolve late, after the bytes have moved: what the other
       * end says to them may come earlier.
       */
      do: 'late';
      /** Turns of the event loop, 0 or more; 0 only makes a promise of an answer. */
      turns: number;
    }
  /**
   * From there on writes are answered at once and are done behind it, one at a time; what fails then is
   * told by the next write, by a half-close, or by `close()`. For `writevBuffer` alone: nobody can give unknown bytes.
   */
  | { do: 'early' }
);

/** A failure of an operation that moves no bytes, each time it is called. */
export interface OpFault {
  on: OtherOp;
  do: 'fail';
  /** Errno name. Default `EIO`. */
  code?: string | undefined;
}

/** One fault; plain data, so that a plan can be printed and read again as JSON. */
export type Fault = ByteFault | OpFault;

/** What `randomFaults` draws from. */
export interface RandomFaultOptions {
  /** Faults happen at bytes below this. Default 1 MiB. */
  bytes?: number | undefined;
  /** Greatest number of faults, 1 or more. Default 4. */
  most?: number | undefined;
}

/**
 * Makes a plan for `faultyOps` by chance; the same seed and options always give the same one.
 *
 * Stalls end by themselves within some milliseconds, so that nobody has to release them.
 *
 * @param seed - Any integer; of others the fraction is dropped.
 * @param options - `bytes`, `most`.
 *
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

/** Gives integers from 0 to below a bound, by xorshift: nobody has to keep a secret with them. */
function generator(seed: number): (bound: number) => number {
  // The one state that it never leaves is 0; similar seeds are spread far apart.
  let state = Math.imul(seed | 0, 0x9e3779b1) || 1;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}
