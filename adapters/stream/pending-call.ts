import { QemuFileError } from '../../lib/contract/errors.ts';
import type { Failure } from './stream-failure.ts';

/** The operation of a stream that may be pending, and the failure that this and all later ones meet. */
export class PendingCall<T> {
  /** The failure of all further calls; the first one stays. */
  #failure: Failure | undefined;
  #resolve: ((value: T) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;
  #operation = '';
  #position: number | undefined;
  #count = 0;

  get isPending(): boolean {
    return this.#resolve !== undefined;
  }

  /** Number of calls so far; distinguishes one call from the next. */
  get count(): number {
    return this.#count;
  }

  /** Throw the latched failure, if there is one. */
  check(operation: string, position: number | undefined): void {
    if (this.#failure !== undefined) throw this.#failure(operation, position);
  }

  /**
   * Begin a call, after `check`.
   *
   * @throws {QemuFileError} `EBUSY` while an earlier call is pending.
   */
  begin(operation: string, position: number | undefined): Promise<T> {
    if (this.#resolve !== undefined) {
      const reason = 'an earlier call of the same operation is pending: await it first';
      throw new QemuFileError('EBUSY', reason, { operation, position });
    }
    this.#operation = operation;
    this.#position = position;
    this.#count += 1;
    return new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  resolve(value: T): void {
    const resolve = this.#resolve;
    this.#forget();
    resolve?.(value);
  }

  /** Fail the pending call alone; later ones go on. */
  reject(error: QemuFileError): void {
    const reject = this.#reject;
    this.#forget();
    reject?.(error);
  }

  /** Latch a failure for later calls. */
  latch(failure: Failure): void {
    this.#failure ??= failure;
  }

  /** Latch a failure, and fail the pending call with it. */
  fail(failure: Failure): void {
    this.#failure ??= failure;
    if (this.#reject !== undefined) this.reject(this.#failure(this.#operation, this.#position));
  }

  #forget(): void {
    this.#resolve = undefined;
    this.#reject = undefined;
  }
}
