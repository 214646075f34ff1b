import { QemuFileError } from '../../contract/errors.ts';

const BRAND = Symbol.for('qemu-file.QmpError');

/** QEMU refused a command. The connection still works, and the next command may succeed. */
export class QmpError extends QemuFileError {
  override readonly name: string = 'QmpError';
  /** The command that QEMU refused. */
  readonly command: string;
  /** QMP's error class: `GenericError` for most errors, `CommandNotFound` for a command that this QEMU lacks. */
  readonly qmpClass: string;
  /** QEMU's own words. */
  readonly description: string;

  /**
   * @param command - The command that QEMU refused; also the `operation`.
   * @param qmpClass - QMP's error class. `code` is `ENOTSUP` for `CommandNotFound` and `EIO` for the others.
   * @param description - QEMU's own words.
   */
  constructor(command: string, qmpClass: string, description: string) {
    const code = qmpClass === 'CommandNotFound' ? 'ENOTSUP' : 'EIO';
    super(code, `QEMU refused: ${description}`, { operation: command });
    this.command = command;
    this.qmpClass = qmpClass;
    this.description = description;
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** True for an instance made by any loaded copy of this package. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}
