import { createHash } from 'node:crypto';

/** How the name of a file that is not whole ends. */
const SUFFIX = '.qemu-file-partial';

/** File names end at 255 bytes; so many of a final name leave room for the rest of a temporary one. */
const WHOLE_NAME_BYTES = 150;
/** What is kept of a longer name, before a digest that tells it from others. */
const CUT_NAME_BYTES = 130;

/** What stands for the writer and a random number in the name of a file that is being written. */
const WRITER = /^([0-9a-f]{8})-([1-9]\d{0,9})-(\d{1,20})-[0-9a-f]{12}$/;

/** Who writes a file. */
export interface Writer {
  /** Eight hexadecimal digits of a digest, the same for those who can see each other as processes. */
  scope: string;
  /** Its process id there. */
  pid: number;
  /** When that process began, as decimal digits: it tells it from others that had the id. */
  startTime: string;
}

/** The temporary names of files that shall have one final name in the end. */
export class PartialNames {
  readonly #prefix: string;

  /** @param name - The final name, without its directory. */
  constructor(name: string) {
    const bytes = Buffer.from(name);
    let kept = name;
    if (bytes.length > WHOLE_NAME_BYTES) {
      const digest = createHash('sha256').update(bytes).digest('hex').slice(0, 16);
      kept = `${bytes.subarray(0, CUT_NAME_BYTES).toString()}~${digest}`;
    }
    this.#prefix = `.${kept}.`;
  }

  /**
   * Gives the name of a file while it is written.
   *
   * @param writer - Who writes it.
   * @param random - Twelve hexadecimal digits.
   */
  written({ scope, pid, startTime }: Writer, random: string): string {
    return `${this.#prefix}${scope}-${pid}-${startTime}-${random}${SUFFIX}`;
  }

  /** Gives the name of a file that nobody shall take for one that is left over. */
  kept(random: string): string {
    return `${this.#prefix}${random}${SUFFIX}`;
  }

  /** Tells who writes, or wrote, the file of a name; undefined for a name that is none of `written`. */
  writerOf(name: string): Writer | undefined {
    if (!name.startsWith(this.#prefix) || !name.endsWith(SUFFIX)) return undefined;
    const [, scope, pid, startTime] =
      WRITER.exec(name.slice(this.#prefix.length, -SUFFIX.length)) ?? [];
    if (scope === undefined || pid === undefined || startTime === undefined) return undefined;
    return { scope, pid: Number(pid), startTime };
  }
}
