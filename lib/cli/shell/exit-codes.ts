import type { QemuFileError } from '../../contract/errors.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';

/** Exit codes of the command; after a signal the exit code is 128 plus the signal's number. */
export const EXIT = {
  /** Done. */
  DONE: 0,
  /** `inspect`, `verify` and `extract`: the stream is damaged or incomplete. */
  BAD_STREAM: 1,
  /** The command line is wrong. */
  USAGE: 2,
  /** The input is not a migration stream, or is empty; for `relay`, `save` and `restore`, also a damaged one. */
  INPUT: 3,
  /** Opening, reading, writing or closing failed. */
  IO: 4,
  /** The stream is valid as far as it was read, but uses something that this package or the QEMU does not support. */
  UNSUPPORTED: 5,
} as const;

/** The signals that end the command in order, and their exit codes. */
export const SIGNAL_EXITS = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGTERM: 143,
} as const;

export type EndingSignal = keyof typeof SIGNAL_EXITS;

/** Return whether a relay failed because its input was empty; `ENODATA` of other operations has other causes. */
export function isEmptyInput({ code, operation }: QemuFileError): boolean {
  return code === 'ENODATA' && operation === 'relay';
}

/** Return the exit code of `relay`, `save` and `restore` after an error. */
export function exitCodeOf(error: QemuFileError): number {
  if (isUnsupported(error)) return EXIT.UNSUPPORTED;
  if (isUndecodable(error)) return EXIT.INPUT;
  return isEmptyInput(error) || error instanceof MigrationStreamError ? EXIT.INPUT : EXIT.IO;
}

/**
 * Operations whose `ENOTSUP` is not about a stream: a snapshot store has a later version or its SDK is not installed, or
 * a path cannot hold a stream, such as that of a socket.
 */
const OF_PLACES: ReadonlySet<string | undefined> = new Set(['readSnapshot', 'openStorage', 'open']);

/** Return whether a stream is not supported. The system uses the same code for operations of a file system. */
function isUnsupported({ code, cause, operation }: QemuFileError): boolean {
  const isSystemError = cause instanceof Error && 'syscall' in cause;
  return code === 'ENOTSUP' && !isSystemError && !OF_PLACES.has(operation);
}

/** Return whether a tool of the system found that compressed data is damaged: it exited, and no signal ended it. */
function isUndecodable({ code, operation, reason }: QemuFileError): boolean {
  return code === 'EIO' && operation === 'decompress' && reason.includes('exited with status');
}

/** Return whether an option does not fit the input, such as `--snapshot` where the input is not a disk image. */
function isWrongInput({ code, operation }: QemuFileError): boolean {
  return code === 'EINVAL' && operation === 'unwrap';
}

/** Return the exit code of `inspect`, `verify` and `extract` after an error. */
export function readExitCode(error: QemuFileError): number {
  if (isUnsupported(error)) return EXIT.UNSUPPORTED;
  if (isUndecodable(error)) return EXIT.BAD_STREAM;
  if (!(error instanceof MigrationStreamError)) return isWrongInput(error) ? EXIT.USAGE : EXIT.IO;
  const isEmpty = error.fault === 'truncated' && error.position === 0;
  return error.fault === 'not-a-stream' || isEmpty ? EXIT.INPUT : EXIT.BAD_STREAM;
}

/** Turns the signals that end the command into an `AbortSignal`. */
export class SignalAbort implements Disposable {
  readonly #controller = new AbortController();
  #by: EndingSignal | undefined;

  constructor() {
    for (const name of Object.keys(SIGNAL_EXITS)) process.on(name, this.#onSignal);
  }

  /** Aborted by the first of the signals; later ones change nothing, because closing has begun. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The first signal that arrived, if any. */
  get by(): EndingSignal | undefined {
    return this.#by;
  }

  /** Act as if a signal had arrived. */
  interrupt(name: EndingSignal): void {
    this.#by ??= name;
    this.#controller.abort(new Error(`interrupted by ${name}`));
  }

  /** Stop handling the signals. */
  [Symbol.dispose](): void {
    for (const name of Object.keys(SIGNAL_EXITS)) process.off(name, this.#onSignal);
  }

  readonly #onSignal = (name: EndingSignal): void => this.interrupt(name);
}
