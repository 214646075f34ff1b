import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';

/** The peer of a backend, made without the code under test where possible. */
export interface Peer {
  /** Return the next bytes that were written to the backend; empty at the end. Rejects after a reset. */
  read?(): Promise<Uint8Array>;
  /** Send bytes to the reader of the backend; resolves when they are on their way. */
  write?(bytes: Uint8Array): Promise<void>;
  /** Let the reader of the backend see the end after the bytes. */
  end?(): Promise<void>;
  /** Close in order. May be called again. */
  close(): Promise<void>;
  /** Reset the connection. */
  reset?(): void;
}

/** A new backend with its peer. */
export interface Backend {
  ops: QemuFileOps;
  peer: Peer;
  /** Free servers and files that the factory made. */
  dispose?(): Promise<void>;
  /** Return the names of leftovers of the backend after its close, such as listeners. */
  leftovers?(): string[];
}

/** Abilities of a backend; an absent one is false. */
export interface Traits {
  direction: 'read' | 'write' | 'both';
  /** The backend keeps its bytes (a file, a buffer) instead of passing them on: its end is its current size. */
  isStore?: boolean;
  /** A big write waits for the peer to read. */
  isBounded?: boolean;
  /** Writing fails after the peer has closed. */
  canBreak?: boolean;
  /** The two directions end independently. */
  canHalfClose?: boolean;
  /** `getReturnPath` returns further tables. */
  hasReturnPath?: boolean;
  /** A reset by either end reaches the other as an error. */
  canReset?: boolean;
}

/** A backend under test, with the operations that tests repeat. */
export class Subject implements AsyncDisposable {
  readonly ops: QemuFileOps;
  readonly peer: Peer;
  readonly #backend: Backend;
  readonly #isStore: boolean;
  #position = 0;

  constructor(backend: Backend, traits: Traits) {
    this.#backend = backend;
    this.ops = backend.ops;
    this.peer = backend.peer;
    this.#isStore = traits.isStore ?? false;
  }

  /** Write a batch and check the result. */
  async write(...buffers: Uint8Array[]): Promise<void> {
    const total = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
    assert.equal(await this.startWrite(...buffers), total);
    this.#position += total;
  }

  startWrite(...buffers: Uint8Array[]): Promise<number> {
    assert.ok('writevBuffer' in this.ops);
    return promised(() => this.ops.writevBuffer?.(buffers, this.#position) ?? -1);
  }

  /** Read the next bytes; empty at the end. */
  read(): Promise<Buffer> {
    return readOnce(this.ops);
  }

  /** Read until the end. */
  async readToEnd(): Promise<Buffer> {
    return collect(() => this.read());
  }

  /** Let the peer send bytes and the end; wait for it only where it must precede reading. */
  async feed(...chunks: Uint8Array[]): Promise<void> {
    const done = (async () => {
      for (const chunk of chunks) await this.peer.write?.(chunk);
      await this.peer.end?.();
    })();
    if (this.#isStore) await done;
    else done.catch(() => {});
  }

  /** Start reading the written bytes; the returned function closes both ends in order and returns the bytes. */
  collect(): () => Promise<Buffer> {
    const readAll = () => collect(() => this.peer.read?.() ?? Promise.resolve(new Uint8Array(0)));
    if (this.#isStore) {
      return async () => {
        await this.ops.close?.();
        return readAll();
      };
    }
    const collected = readAll();
    collected.catch(() => {});
    return async () => {
      const closed = promised(() => this.ops.close?.());
      const bytes = await collected;
      await this.peer.close();
      await closed;
      return bytes;
    };
  }

  leftovers(): string[] {
    return this.#backend.leftovers?.() ?? [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([promised(() => this.ops.close?.()), this.peer.close()]);
    await this.#backend.dispose?.();
  }
}

/** Read once from a table into a buffer of 64 KiB; return the bytes, copied or handed over. */
export async function readOnce(ops: QemuFileOps): Promise<Buffer> {
  const buffer = new Uint8Array(65536);
  const answer = await ops.getBuffer?.(buffer, 0);
  assert.ok(answer !== undefined);
  return Buffer.from(typeof answer === 'number' ? buffer.subarray(0, answer) : answer);
}

/** Call until the result is empty, and join the results. */
export async function collect(next: () => Promise<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for (;;) {
    const chunk = await next();
    if (chunk.length === 0) return Buffer.concat(chunks);
    chunks.push(chunk);
  }
}

/** Call an operation; turn an exception into a rejection. */
export async function promised<T>(call: () => T | PromiseLike<T>): Promise<T> {
  return await call();
}

/** Wait some turns of the event loop, so that everything that is ready has run. */
export async function manyTurns(): Promise<void> {
  for (let i = 0; i < 50; i++) await turn();
}

/** Return whether a promise has settled after many turns. */
export async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const note = () => {
    settled = true;
  };
  promise.then(note, note);
  await manyTurns();
  return settled;
}

/** Check that a promise rejects with an error of this package, with one of the codes if any are given. */
export async function rejectsWith(promise: Promise<unknown>, ...codes: string[]): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof QemuFileError, `not a QemuFileError: ${String(error)}`);
    if (codes.length > 0) assert.ok(codes.includes(error.code), `unexpected: ${error.message}`);
    return true;
  });
}

/** Return bytes of which no two ranges are equal, so that a test notices any mix-up. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) | 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
}
