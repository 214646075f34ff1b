import type { QemuFileError } from '../../contract/errors.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';

/** Exit codes of the command; after a signal it is `128 +` its number. */
export const EXIT = {
  /** Done. */
  DONE: 0,
  /** The stream that was read is bad. */
  BAD_STREAM: 1,
  /** The command line is wrong. */
  USAGE: 2,
  /** The input is no migration stream, or empty. */
  INPUT: 3,
  /** Opening, reading, writing or closing failed. */
  IO: 4,
} as const;

/** Signals that end a relay in order, and their exit codes. */
export const SIGNAL_EXITS = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGTERM: 143,
} as const;

export type EndingSignal = keyof typeof SIGNAL_EXITS;

/** Whether an input was empty; the system has other uses for that code. */
export function isEmptyInput({ code, operation }: QemuFileError): boolean {
  return code === 'ENODATA' && operation === 'relay';
}

/** Gives the exit code of what a relay failed with. */
export function exitCodeOf(error: QemuFileError): number {
  return isEmptyInput(error) || error instanceof MigrationStreamError ? EXIT.INPUT : EXIT.IO;
}

/** Whether something was asked for that such an input cannot have: a snapshot of what is no disk image. */
function isMisled({ code, operation }: QemuFileError): boolean {
  return code === 'EINVAL' && operation === 'unwrap';
}

/** Gives the exit code of whatever reading a stream failed with. */
export function readExitCode(error: QemuFileError): number {
  if (!(error instanceof MigrationStreamError)) return isMisled(error) ? EXIT.USAGE : EXIT.IO;
  const isEmpty = error.fault === 'truncated' && error.position === 0;
  return error.fault === 'not-a-stream' || isEmpty ? EXIT.INPUT : EXIT.BAD_STREAM;
}

/** The signals that end the command, turned into an `AbortSignal`. */
export class SignalAbort implements Disposable {
  readonly #controller = new AbortController();
  #by: EndingSignal | undefined;

  constructor() {
    for (const name of Object.keys(SIGNAL_EXITS)) process.on(name, this.#onSignal);
  }

  /** Aborts at the first of the signals; further ones change nothing, closing is under way. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The first signal that came, if one has. */
  get by(): EndingSignal | undefined {
    return this.#by;
  }

  /** Does what one of the signals does, without one. */
  interrupt(name: EndingSignal): void {
    this.#by ??= name;
    this.#controller.abort(new Error(`interrupted by ${name}`));
  }

  /** Gives the signals their usual meaning again. */
  [Symbol.dispose](): void {
    for (const name of Object.keys(SIGNAL_EXITS)) process.off(name, this.#onSignal);
  }

  readonly #onSignal = (name: EndingSignal): void => this.interrupt(name);
}
