import { argumentError } from '../../contract/argument-error.ts';
import type { QemuFileOps } from '../../contract/ops.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';

/** A stream to read: a `QemuFile`, or an async iterable of chunks such as a `Readable`. */
export type StreamSource = QemuFile | AsyncIterable<Uint8Array>;

/** A file to read a source through. */
export interface SourceFile {
  readonly file: QemuFile;
  /**
   * Release the source, unless it is a `QemuFile` of the caller. Never rejects: failed reads have been reported
   * already, and failures of bytes that the reader did not ask for do not matter.
   */
  readonly close: () => Promise<void>;
}

const END = new Uint8Array(0);

/** Return a file that reads a source: the source itself if it is a `QemuFile`, else one over its chunks, without a copy. */
export function openSource(source: StreamSource): SourceFile {
  if (typeof source?.[Symbol.asyncIterator] !== 'function') {
    const allowed = 'a QemuFile or an async iterable of Uint8Array chunks';
    throw argumentError('MigrationReader', 'the source', allowed, source);
  }
  if (source instanceof QemuFile) return { file: source, close: () => Promise.resolve() };
  const file = new QemuFile(chunksOf(source));
  return { file, close: () => file.close().then(noop, noop) };
}

/** Return a backend whose bytes are the chunks of an iterable. */
function chunksOf(source: AsyncIterable<Uint8Array>): QemuFileOps {
  const iterator = source[Symbol.asyncIterator]();
  /** Whether a call of `next` is pending: the iterator then queues further calls. */
  let isPending = false;
  let isOver = false;

  const next = async (): Promise<IteratorResult<Uint8Array, undefined>> => {
    isPending = true;
    try {
      const result = await iterator.next();
      isOver = result.done === true;
      return result;
    } catch (error) {
      isOver = true;
      throw error;
    } finally {
      isPending = false;
    }
  };

  return {
    async getBuffer() {
      for (;;) {
        const { done, value } = await next();
        if (done === true) return END;
        if (!(value instanceof Uint8Array)) {
          throw new TypeError('the source must yield Uint8Array chunks');
        }
        // An empty chunk would be the end of the file.
        if (value.length > 0) return value;
      }
    },
    async close() {
      if (isOver) return;
      const returned = iterator.return?.();
      // A source that is stuck in `next` must not block the caller that closes it.
      if (isPending) returned?.catch(noop);
      else await returned;
    },
  };
}
