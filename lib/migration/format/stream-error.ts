import { QemuFileError, type QemuFileErrorContext } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';

const BRAND = Symbol.for('qemu-file.MigrationStreamError');

/**
 * What is wrong with a stream: `corrupt` bytes that cannot be, `truncated` where it ends too early,
 * `unsupported` what may be right but is not known here, `not-a-stream` something else altogether.
 */
export type StreamFault = 'corrupt' | 'truncated' | 'unsupported' | 'not-a-stream';

/** The errno name of each fault. */
const CODES: Readonly<Record<StreamFault, string>> = {
  corrupt: 'EBADMSG',
  truncated: 'ENODATA',
  unsupported: 'ENOTSUP',
  'not-a-stream': 'EPROTO',
};

/** Which section an error is in. */
export interface SectionName {
  sectionId: number;
  name: string;
  instanceId: number;
}

/** Where in a stream a fault is. */
export interface StreamFaultContext extends QemuFileErrorContext {
  /** Byte offset of the offending field from the start of the stream; absent only if it is no one place. */
  position?: number | undefined;
  /** The section it is in. */
  section?: SectionName | undefined;
}

/** Gives a section's name for people: `"ram"`, or with its instance where that is not 0: `"dma" 1`. */
export function quoteSection({ name, instanceId }: { name: string; instanceId: number }): string {
  return `"${printable(name)}"${instanceId === 0 ? '' : ` ${instanceId}`}`;
}

/** Any error that a migration stream itself is the reason of; other errors are its transport's. */
export class MigrationStreamError extends QemuFileError {
  override readonly name: string = 'MigrationStreamError';
  /** What is wrong. */
  readonly fault: StreamFault;
  /** The section it is in, where there is one. */
  readonly section: SectionName | undefined;
  /** What is wrong, without code, section and position. */
  override readonly reason: string;

  /**
   * @param fault - Its kind: `code` is `EBADMSG` for `corrupt`, `ENODATA` for `truncated`, `ENOTSUP`
   *   for `unsupported` and `EPROTO` for `not-a-stream`.
   * @param reason - What is wrong, as a clause without a full stop; text from the stream made `printable`.
   * @param context - Where.
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
