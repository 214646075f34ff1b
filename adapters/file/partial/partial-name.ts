import { createHash } from 'node:crypto';

/** How the name of a partial file ends. */
const SUFFIX = '.qemu-file-partial';

/** Longest final name that a temporary name contains whole. File names may have 255 bytes. */
const MAX_WHOLE_NAME_BYTES = 150;
/** Bytes that are kept of a longer final name, before a digest that distinguishes it from others. */
const CUT_NAME_BYTES = 130;

/** The part of a partial file's name that identifies its writer, and a random number. */
const WRITER = /^([0-9a-f]{8})-([1-9]\d{0,9})-(\d{1,20})-[0-9a-f]{12}$/;

/** The process that writes a file. */
export interface Writer {
  /** Eight hexadecimal digits of a digest. Processes that can see each other have the same scope. */
  scope: string;
  /** Process id in that scope. */
  pid: number;
  /** Start time of the process in decimal digits. It distinguishes the process from others with the same id. */
  startTime: string;
}

/** The names of partial files that have one final name in common. */
export class PartialNames {
  readonly #prefix: string;

  /** @param name - The final name without its directory. */
  constructor(name: string) {
    const bytes = Buffer.from(name);
    let kept = name;
    if (bytes.length > MAX_WHOLE_NAME_BYTES) {
      const digest = createHash('sha256').update(bytes).digest('hex').slice(0, 16);
      kept = `${bytes.subarray(0, CUT_NAME_BYTES).toString()}~${digest}`;
    }
    this.#prefix = `.${kept}.`;
  }

  /**
   * Return the name of a file while it is being written.
   *
   * @param writer - The process that writes it.
   * @param random - Twelve hexadecimal digits.
   */
  written({ scope, pid, startTime }: Writer, random: string): string {
    return `${this.#prefix}${scope}-${pid}-${startTime}-${random}${SUFFIX}`;
  }

  /** Return the name of a partial file that must never be removed as stale. */
  kept(random: string): string {
    return `${this.#prefix}${random}${SUFFIX}`;
  }

  /** Return the writer that a name from `written` contains; undefined for any other name. */
  writerOf(name: string): Writer | undefined {
    if (!name.startsWith(this.#prefix) || !name.endsWith(SUFFIX)) return undefined;
    return parseWriter(name.slice(this.#prefix.length, -SUFFIX.length));
  }
}

/** Return whether a name can be that of a partial file of any final name. */
export function isPartialName(name: string): boolean {
  return name.startsWith('.') && name.endsWith(SUFFIX);
}

/** Return the writer in the name of a partial file of any final name; undefined if it has none. */
export function writerOfPartial(name: string): Writer | undefined {
  if (!isPartialName(name)) return undefined;
  const stem = name.slice(0, -SUFFIX.length);
  return parseWriter(stem.slice(stem.lastIndexOf('.') + 1));
}

function parseWriter(text: string): Writer | undefined {
  const [, scope, pid, startTime] = WRITER.exec(text) ?? [];
  if (scope === undefined || pid === undefined || startTime === undefined) return undefined;
  return { scope, pid: Number(pid), startTime };
}
