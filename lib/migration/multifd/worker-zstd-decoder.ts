import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import type { PayloadDecoder } from './payload-decoder.ts';
import { tooLittle, tooMuch } from './payload-output.ts';
import { checkBlocks, checkFirstPayload } from './zstd-frame.ts';

/** Most milliseconds that the worker may take for one payload, which is 512 KiB of pages or less. */
const MAX_DECODE_MS = 5000;

/** Limits of the worker's JavaScript heap. The window and the buffers lie outside it. */
const WORKER_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 16 };

/** A message to the worker: bytes for `fzstd`, and the number of bytes they must decode to. */
interface DecodeRequest {
  readonly payload: Uint8Array;
  readonly size: number;
}

/** A reply of the worker: that it has started, the decoded bytes, or why there are none. */
type WorkerReply =
  | { readonly type: 'ready' }
  | { readonly type: 'decoded'; readonly bytes: Uint8Array; readonly filled: number }
  | { readonly type: 'overflow' }
  | { readonly type: 'failed'; readonly reason: string };

/*
 * The worker's program. It is text, not a module beside this one, because a worker of Node 20 does not
 * inherit module hooks: a TypeScript file could not be its entry when the sources run through a loader. Only
 * Node 20 uses this decoder. All checks are made on this side.
 *
 * Each payload is pushed in two pieces. `fzstd` keeps a view of the end of every payload until a later push
 * leaves a block incomplete; one byte always does, so that it never keeps more than one payload.
 */
const WORKER_PROGRAM = `'use strict';
const { parentPort, workerData } = require('node:worker_threads');
const { Decompress } = require(workerData.fzstdPath);
const OVERFLOW = new Error();
let bytes, filled;
const stream = new Decompress((chunk) => {
  if (chunk.length > bytes.length - filled) throw OVERFLOW;
  bytes.set(chunk, filled);
  filled += chunk.length;
});
parentPort.on('message', ({ payload, size }) => {
  bytes = new Uint8Array(size);
  filled = 0;
  try {
    stream.push(payload.subarray(0, 1));
    stream.push(payload.subarray(1));
    parentPort.postMessage({ type: 'decoded', bytes, filled }, [bytes.buffer]);
  } catch (error) {
    parentPort.postMessage(
      error === OVERFLOW ? { type: 'overflow' } : { type: 'failed', reason: error.message },
    );
  }
});
parentPort.postMessage({ type: 'ready' });
`;

interface PendingDecode {
  readonly size: number;
  resolve(bytes: Uint8Array): void;
  reject(error: Error): void;
}

/**
 * A decoder for zstd in JavaScript, for the versions of Node whose node:zlib lacks zstd.
 *
 * `fzstd` works in a worker thread, because a damaged block of 20 bytes can keep it busy for minutes, and
 * only a thread of its own can be ended then. The first payload starts the thread; the first failure and
 * `close` end it. It keeps the process alive only while a payload is being decoded.
 */
export class WorkerZstdDecoder implements PayloadDecoder {
  readonly #maxDecodeMs: number;
  #worker: Worker | null = null;
  #isReady = false;
  #hasHeader = false;
  #pending: PendingDecode | null = null;
  #timer: NodeJS.Timeout | undefined;
  #failure: Error | null = null;

  /** @param maxDecodeMs - Most milliseconds for one payload, not counting the start of the thread. */
  constructor(maxDecodeMs: number = MAX_DECODE_MS) {
    this.#maxDecodeMs = maxDecodeMs;
  }

  decode(payload: Uint8Array, size: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      this.#pending = { size, resolve, reject };
      try {
        this.#send({ payload: this.#checked(payload), size });
      } catch (error) {
        this.#fail(error as Error);
      }
    });
  }

  close(): void {
    this.#fail(new Error('the decoder was closed'));
  }

  /** Return a copy of the payload that `fzstd` can be given. */
  #checked(payload: Uint8Array): Uint8Array<ArrayBuffer> {
    if (!this.#hasHeader) {
      const bytes = checkFirstPayload(payload);
      this.#hasHeader = true;
      return Uint8Array.from(bytes);
    }
    checkBlocks(payload, 0);
    return Uint8Array.from(payload);
  }

  #send(request: DecodeRequest & { payload: Uint8Array<ArrayBuffer> }): void {
    this.#worker ??= this.#start();
    this.#worker.ref();
    this.#worker.postMessage(request, [request.payload.buffer]);
    if (this.#isReady) this.#startTimer();
  }

  #start(): Worker {
    const fzstdPath = createRequire(import.meta.url).resolve('fzstd');
    const worker = new Worker(WORKER_PROGRAM, {
      eval: true,
      workerData: { fzstdPath },
      resourceLimits: WORKER_LIMITS,
      // Options of the process, such as `--input-type=module`, would change how the program is read.
      execArgv: [],
      env: {},
    });
    worker.on('message', (reply: WorkerReply) => this.#handle(reply));
    worker.on('error', (error) => this.#fail(error));
    worker.on('exit', () => this.#fail(new Error('the decoder thread has ended')));
    return worker;
  }

  #startTimer(): void {
    this.#timer = setTimeout(() => {
      this.#fail(new Error(`decoding it takes more than ${this.#maxDecodeMs} ms`));
    }, this.#maxDecodeMs);
  }

  #handle(reply: WorkerReply): void {
    const pending = this.#pending;
    if (pending === null) return;
    switch (reply.type) {
      case 'ready':
        this.#isReady = true;
        this.#startTimer();
        break;
      case 'overflow':
        this.#fail(new Error(tooMuch(pending.size)));
        break;
      case 'failed':
        this.#fail(new Error(reply.reason));
        break;
      case 'decoded':
        this.#finish(pending, reply.bytes, reply.filled);
    }
  }

  #finish(pending: PendingDecode, bytes: Uint8Array, filled: number): void {
    if (filled < pending.size) {
      this.#fail(new Error(tooLittle(filled, pending.size)));
      return;
    }
    clearTimeout(this.#timer);
    this.#worker?.unref();
    this.#pending = null;
    pending.resolve(bytes);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    clearTimeout(this.#timer);
    void this.#worker?.terminate();
    this.#worker = null;
    const pending = this.#pending;
    this.#pending = null;
    pending?.reject(this.#failure);
  }
}
