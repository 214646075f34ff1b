import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { QemuFileOps } from '../../lib/contract/ops.ts';

/** The other side of a backend, made without the code under test where that can be done. */
export interface Peer {
  /** Gives the next bytes that were written to the backend; none is the end. Rejects after a reset. */
  read?(): Promise<Uint8Array>;
  /** Gives bytes to whoever reads the backend; answers when they are on their way. */
  write?(bytes: Uint8Array): Promise<void>;
  /** Lets whoever reads the backend see the end after the bytes. */
  end?(): Promise<void>;
  /** Goes away in order. May be called again. */
  close(): Promise<void>;
  /** Breaks the connection. */
  reset?(): void;
}

/** A backend with its other side, both fresh. */
export interface Backend {
  ops: QemuFileOps;
  peer: Peer;
  /** Frees what the factory made besides: servers, files. */
  dispose?(): Promise<void>;
  /** Names what the backend has left behind after its close, such as listeners. */
  leftovers?(): string[];
}

/** What a backend can do; whatever is absent is false. */
export interface Traits {
  direction: 'read' | 'write' | 'both';
  /** Keeps its bytes (a file, a buffer) instead of passing them on: its end is where it ends now. */
  isStore?: boolean;
  /** A big write waits for the other side to read. */
  isBounded?: boolean;
  /** Writing fails once the other side went away. */
  canBreak?: boolean;
  /** The two directions end apart. */
  canHalfClose?: boolean;
  /** Its `getReturnPath` gives further tables. */
  hasReturnPath?: boolean;
  /** A reset by either side reaches the other as an error. */
  canReset?: boolean;
}

/** A backend under test, with what the tests do with it again and again. */
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

  /** Writes a batch and checks the answer. */
  async write(...buffers: Uint8Array[]): Promise<void> {
    const total = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
    assert.equal(await this.startWrite(...buffers), total);
    this.#position += total;
  }

  startWrite(...buffers: Uint8Array[]): Promise<number> {
    assert.ok('writevBuffer' in this.ops);
    return promised(() => this.ops.writevBuffer?.(buffers, this.#position) ?? -1);
  }

  /** Reads what comes next; nothing is the end. */
  read(): Promise<Buffer> {
    return readOnce(this.ops);
  }

  /** Reads until the end. */
  async readToEnd(): Promise<Buffer> {
    return collect(() => this.read());
  }

  /** Lets the peer send bytes and the end; waits for that only where it must come before reading. */
  async feed(...chunks: Uint8Array[]): Promise<void> {
    const done = (async () => {
      for (const chunk of chunks) await this.peer.write?.(chunk);
      await this.peer.end?.();
    })();
    if (this.#isStore) await done;
    else done.catch(() => {});
  }

  /** Starts to read what is written; the answer closes both sides in order and gives the bytes. */
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

/** Reads once from a table into a buffer of 64 KiB; gives the bytes either way they came. */
export async function readOnce(ops: QemuFileOps): Promise<Buffer> {
  const buffer = new Uint8Array(65536);
  const answer = await ops.getBuffer?.(buffer, 0);
  assert.ok(answer !== undefined);
  return Buffer.from(typeof answer === 'number' ? buffer.subarray(0, answer) : answer);
}

/** Calls until nothing comes, and joins what came. */
export async function collect(next: () => Promise<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for (;;) {
    const chunk = await next();
    if (chunk.length === 0) return Buffer.concat(chunks);
    chunks.push(chunk);
  }
}

/** Calls an operation in such a way that what it throws is a rejection too. */
export async function promised<T>(call: () => T | PromiseLike<T>): Promise<T> {
  return await call();
}

/** Lets everything that is ready happen: some turns of the event loop. */
export async function manyTurns(): Promise<void> {
  for (let i = 0; i < 50; i++) await turn();
}

/** Says whether a promise has settled after many turns. */
export async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const note = () => {
    settled = true;
  };
  promise.then(note, note);
  await manyTurns();
  return settled;
}

/** Checks that a promise rejects with an error of this package, and one of the codes if any are given. */
export async function rejectsWith(promise: Promise<unknown>, ...codes: string[]): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof QemuFileError, `not a QemuFileError: ${String(error)}`);
    if (codes.length > 0) assert.ok(codes.includes(error.code), `unexpected: ${error.message}`);
    return true;
  });
}

/** Bytes that differ everywhere: no two places of a long run can be mixed up unnoticed. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) | 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
}
