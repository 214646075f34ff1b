import type { Duplex, DuplexOptions } from 'node:stream';

type DuplexClass = new (options?: DuplexOptions) => Duplex;

/**
 * Return two connected streams: buffers written to one are read from the other, without a copy. A write
 * calls back when the peer asks for more. Destroying one with an error resets the other; without an error
 * it ends the other.
 *
 * @param Base - `Duplex` of `node:stream` or of `readable-stream`.
 */
export function duplexPair(Base: DuplexClass): [Duplex, Duplex] {
  class Side extends Base {
    other: Side | undefined;
    onTaken: ((error?: Error) => void) | undefined;
    #sentEnd = false;

    override _read(): void {
      this.#answer();
    }

    override _write(chunk: Buffer, _encoding: string, callback: (error?: Error) => void): void {
      const other = this.other as Side;
      if (other.destroyed) {
        callback(failed('EPIPE'));
        return;
      }
      other.onTaken = callback;
      other.push(chunk);
    }

    override _final(callback: (error?: Error) => void): void {
      this.#sendEnd();
      callback();
    }

    override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
      this.#answer(failed('EPIPE'));
      if (error === null) this.#sendEnd();
      else this.other?.destroy(failed('ECONNRESET'));
      callback(error);
    }

    #answer(error?: Error): void {
      const answer = this.onTaken;
      this.onTaken = undefined;
      answer?.(error);
    }

    #sendEnd(): void {
      if (!this.#sentEnd && this.other?.destroyed === false) this.other.push(null);
      this.#sentEnd = true;
    }
  }
  const [one, two] = [new Side(), new Side()];
  one.other = two;
  two.other = one;
  return [one, two];
}

function failed(code: string): Error {
  return Object.assign(new Error(`the other side is gone (${code})`), { code });
}
