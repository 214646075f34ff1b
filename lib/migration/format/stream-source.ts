import type { QemuFileOps } from '../../contract/ops.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';

/** What a stream can be read from: a file, or anything that gives chunks of bytes, such as a `Readable`. */
export type StreamSource = QemuFile | AsyncIterable<Uint8Array>;

/** A file to read a source from. */
export interface SourceFile {
  readonly file: QemuFile;
  /**
   * Gives up the source, unless it is a file of the caller's. Never fails: what went wrong while bytes
   * were wanted was reported then, and what goes wrong with bytes that nobody wants is no matter.
   */
  readonly close: () => Promise<void>;
}

const NOTHING = new Uint8Array(0);

/** Gives a file to read a source from: a `QemuFile` itself, else one over its chunks, which are not copied. */
export function openSource(source: StreamSource): SourceFile {
  if (source instanceof QemuFile) return { file: source, close: () => Promise.resolve() };
  const file = new QemuFile(chunksOf(source));
  return {
    file,
    close: () =>
      file.close().then(
        () => {},
        () => {},
      ),
  };
}

/** A backend whose bytes are the chunks of an iterable. */
function chunksOf(source: AsyncIterable<Uint8Array>): QemuFileOps {
  const iterator = source[Symbol.asyncIterator]();
  /** Whether the iterator owes an answer: what it is asked then waits for that. */
  let asking = false;
  let over = false;

  const next = async (): Promise<IteratorResult<Uint8Array, undefined>> => {
    asking = true;
    try {
      const result = await iterator.next();
      over = result.done === true;
      return result;
    } catch (error) {
      over = true;
      throw error;
    } finally {
      asking = false;
    }
  };

  return {
    async getBuffer() {
      for (;;) {
        const { done, value } = await next();
        if (done === true) return NOTHING;
        if (!(value instanceof Uint8Array)) {
          throw new TypeError('the source gives something else than Uint8Array chunks');
        }
        // To the file, nothing is the end.
        if (value.length > 0) return value;
      }
    },
    async close() {
      if (over) return;
      const returned = iterator.return?.();
      // A source that is stuck must not hold up whoever gave it up.
      if (asking) returned?.catch(() => {});
      else await returned;
    },
  };
}
