import { constants } from 'node:os';

const BRAND = Symbol.for('qemu-file.QemuFileError');

/** Where an error happened; every field is optional. */
export interface QemuFileErrorContext {
  /** Byte position in the stream, counted from its start. */
  position?: number | undefined;
  /** The operation that failed, by its public name: `writevBuffer`, `readBe32`, `connect` … */
  operation?: string | undefined;
  /** Advice for the user, as a clause; undefined for the general advice that belongs to the code. */
  advice?: string | undefined;
  /** The underlying error, such as the transport's or an `AbortSignal`'s reason; undefined means none. */
  cause?: unknown;
}

/** Advice to the user, by error code. */
const ADVICE: Readonly<Record<string, string>> = {
  EACCES: 'check the permissions of the path and of its directories',
  EADDRINUSE: 'another process listens there: stop it or choose another address',
  EAGAIN: 'the bytes have not arrived yet: await fill(n) first',
  ECONNREFUSED: 'nothing listens there: start the other end first',
  ECONNRESET: 'the other end went away: look at its log for the reason',
  EEXIST: 'remove what is there or choose another name',
  ENOBUFS: 'await drain() when rateLimitExceeded() is true or write() returned false',
  ENOENT: 'check the path',
  ENOSPC: 'free some space or choose another place',
  EPIPE: 'the other end stopped reading: look at its log for the reason',
  ETIMEDOUT: 'check that the other end is reachable and alive',
};

/**
 * The one error class of this package: an errno name, where in the stream it happened, in which
 * operation, and the transport's own error as `cause`.
 *
 * @example
 * ```js
 * try {
 *   await file.flush();
 * } catch (error) {
 *   if (error instanceof QemuFileError && error.code === 'EPIPE') console.log(error.position);
 * }
 * ```
 */
export class QemuFileError extends Error {
  override readonly name: string = 'QemuFileError';
  /** Errno name such as `'EIO'` or `'EPIPE'`. */
  readonly code: string;
  /** The reason alone, without code, operation, position and advice. */
  readonly reason: string;
  /** The negative errno of `code` on this system, as QEMU's functions return it. */
  readonly errno: number;
  /** Byte position in the stream, where one is known. */
  readonly position: number | undefined;
  /** Public name of the operation that failed, where one is known. */
  readonly operation: string | undefined;

  /**
   * @param code - Errno name; one that this system does not know gets the number of `EIO`.
   * @param reason - What happened, as a clause without a full stop.
   * @param context - Where it happened, and the underlying error.
   */
  constructor(code: string, reason: string, context: QemuFileErrorContext = {}) {
    super(
      describe(code, reason, context),
      context.cause === undefined ? undefined : { cause: context.cause },
    );
    this.code = code;
    this.reason = reason;
    this.errno = errnoOf(code);
    this.position = context.position;
    this.operation = context.operation;
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** True for an instance made by any loaded copy of this package. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}

function describe(code: string, reason: string, context: QemuFileErrorContext): string {
  const operation = context.operation === undefined ? '' : `${context.operation}: `;
  const position = context.position === undefined ? '' : ` at byte ${context.position}`;
  const clause = context.advice ?? ADVICE[code];
  const advice = clause === undefined ? '' : `; ${clause}`;
  return `${code}: ${operation}${reason}${position}${advice}`;
}

/**
 * Return the negative errno of an errno name on this system.
 *
 * @param code - Such as `'EPIPE'`; an unknown name has the number of `EIO`.
 * @returns A negative integer, such as -32.
 */
export function errnoOf(code: string): number {
  const errnos: Record<string, number> = constants.errno;
  return -(errnos[code] ?? constants.errno.EIO);
}

/**
 * Return the errno name of a negative errno on this system.
 *
 * @param errno - Such as -32.
 * @returns Such as `'EPIPE'`; `'EIO'` for a number this system does not know.
 */
export function codeOf(errno: number): string {
  for (const [code, value] of Object.entries(constants.errno)) {
    if (value === -errno) return code;
  }
  return 'EIO';
}

/**
 * Convert an error that a transport threw into a `QemuFileError`. Errno codes are kept, an abort becomes
 * `ECANCELED`, and all others become `EIO`; the original is the `cause`. A `QemuFileError` is returned as it
 * is.
 *
 * @param error - Any value that was thrown.
 * @param context - Where it happened.
 */
export function toQemuFileError(
  error: unknown,
  context: Omit<QemuFileErrorContext, 'cause'> = {},
): QemuFileError {
  if (error instanceof QemuFileError) return error;
  const { name, code, message } = (
    typeof error === 'object' && error !== null ? error : { message: String(error) }
  ) as { name?: unknown; code?: unknown; message?: unknown };
  const known = typeof code === 'string' && code in constants.errno ? code : undefined;
  const fallback = name === 'AbortError' || name === 'TimeoutError' ? 'ECANCELED' : 'EIO';
  const said = typeof message === 'string' && message !== '' ? message : 'the transport failed';
  // Messages of node:fs begin with the code, as ours do.
  const reason =
    known !== undefined && said.startsWith(`${known}: `) ? said.slice(known.length + 2) : said;
  return new QemuFileError(known ?? fallback, reason, { ...context, cause: error });
}

/**
 * Return the error of an operation that an `AbortSignal` ended.
 *
 * @param signal - The signal; its `reason` becomes the `cause`.
 * @param operation - Public name of the operation.
 */
export function abortError(signal: AbortSignal, operation: string): QemuFileError {
  return new QemuFileError('ECANCELED', 'aborted by its signal', {
    operation,
    cause: signal.reason,
  });
}
