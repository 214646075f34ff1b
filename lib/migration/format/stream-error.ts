import { QemuFileError, type QemuFileErrorContext } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';

const BRAND = Symbol.for('qemu-file.MigrationStreamError');

/**
 * The kind of a fault. `corrupt`: the bytes break a rule of the format. `truncated`: the stream ends too early.
 * `unsupported`: the stream may be sound, but this package cannot read it. `not-a-stream`: the input is not a
 * migration stream.
 */
export type StreamFault = 'corrupt' | 'truncated' | 'unsupported' | 'not-a-stream';

/** Error code of each kind of fault. */
const CODES: Readonly<Record<StreamFault, string>> = {
  corrupt: 'EBADMSG',
  truncated: 'ENODATA',
  unsupported: 'ENOTSUP',
  'not-a-stream': 'EPROTO',
};

/** The section that an error is in. */
export interface SectionName {
  sectionId: number;
  name: string;
  instanceId: number;
}

/** The place of a fault in a stream. */
export interface StreamFaultContext extends QemuFileErrorContext {
  /** Byte offset in the stream of the offending field; absent only if the fault has no single place. */
  position?: number | undefined;
  /** The section that the fault is in. */
  section?: SectionName | undefined;
}

/** Return a section's name for messages: `"ram"`, and with an instance other than 0 `"dma" 1`. */
export function quoteSection({ name, instanceId }: { name: string; instanceId: number }): string {
  return `"${printable(name)}"${instanceId === 0 ? '' : ` ${instanceId}`}`;
}

/** A fault of a migration stream. Errors of its transport are plain `QemuFileError`s. */
export class MigrationStreamError extends QemuFileError {
  override readonly name: string = 'MigrationStreamError';
  /** The kind of the fault. */
  readonly fault: StreamFault;
  /** The section that the fault is in, if any. */
  readonly section: SectionName | undefined;
  /** The fault, as a clause without code, section and position. */
  override readonly reason: string;

  /**
   * @param fault - The kind. `code` becomes `EBADMSG` for `corrupt`, `ENODATA` for `truncated`, `ENOTSUP` for
   *   `unsupported` and `EPROTO` for `not-a-stream`.
   * @param reason - The fault, as a clause without a full stop; text from the stream must be `printable`.
   * @param context - Position, section and cause.
   */
  constructor(fault: StreamFault, reason: string, context: StreamFaultContext) {
    const { section, ...where } = context;
    const within = section === undefined ? '' : `in section ${quoteSection(section)}: `;
    super(CODES[fault], within + reason, where);
    this.fault = fault;
    this.section = section;
    this.reason = reason;
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** True for an instance made by any loaded copy of this package. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}
