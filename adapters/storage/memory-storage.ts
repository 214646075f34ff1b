import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { checkKey, checkPrefix, checkRange } from './object-key.ts';
import type { ObjectStorage, StorageOptions, StoredObject } from './object-storage.ts';

/**
 * Return object storage in memory, for tests.
 *
 * @param name - The storage in messages. Default `memory`.
 */
export function memoryStorage(name = 'memory'): ObjectStorage {
  return new MemoryStorage(name);
}

interface MemoryObject {
  readonly content: Buffer;
  readonly modifiedMs: number;
}

class MemoryStorage implements ObjectStorage {
  readonly canPutIfAbsent = true;
  readonly name: string;
  readonly #objects = new Map<string, MemoryObject>();

  constructor(name: string) {
    this.name = name;
  }

  async put(
    key: string,
    parts: readonly Uint8Array[],
    options: StorageOptions & { readonly ifAbsent?: boolean | undefined } = {},
  ): Promise<void> {
    await this.#begin(key, 'put', options);
    if (options.ifAbsent === true && this.#objects.has(key)) {
      throw this.#error('EEXIST', key, 'the object exists already', 'put');
    }
    this.#objects.set(key, { content: Buffer.concat(parts), modifiedMs: Date.now() });
  }

  async get(key: string, maxBytes: number, options: StorageOptions = {}): Promise<Buffer> {
    await this.#begin(key, 'get', options);
    const { content } = this.#find(key, 'get');
    if (content.length > maxBytes) {
      const reason = `the object has ${content.length} bytes; at most ${maxBytes} are read`;
      throw this.#error('EFBIG', key, reason, 'get');
    }
    return Buffer.from(content);
  }

  async getRange(
    key: string,
    offset: number,
    length: number,
    options: StorageOptions = {},
  ): Promise<Buffer> {
    checkRange(offset, length, 'getRange');
    await this.#begin(key, 'getRange', options);
    const { content } = this.#find(key, 'getRange');
    if (offset + length > content.length) {
      const reason = `the object ends at byte ${content.length}`;
      throw this.#error('ENODATA', key, reason, 'getRange', offset);
    }
    return Buffer.from(content.subarray(offset, offset + length));
  }

  async stat(key: string, options: StorageOptions = {}): Promise<StoredObject | null> {
    await this.#begin(key, 'stat', options);
    const found = this.#objects.get(key);
    return found === undefined ? null : describe(key, found);
  }

  async *list(prefix: string, options: StorageOptions = {}): AsyncGenerator<StoredObject> {
    checkPrefix(prefix, 'list');
    for (const [key, object] of [...this.#objects]) {
      await Promise.resolve();
      checkSignal(options.signal, 'list');
      if (key.startsWith(prefix)) yield describe(key, object);
    }
  }

  async remove(key: string, options: StorageOptions = {}): Promise<void> {
    await this.#begin(key, 'remove', options);
    this.#objects.delete(key);
  }

  removeLeftovers(): Promise<number> {
    return Promise.resolve(0);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Every method is asynchronous, as those of other storage are. */
  async #begin(key: string, operation: string, { signal }: StorageOptions): Promise<void> {
    checkKey(key, operation);
    checkSignal(signal, operation);
    await Promise.resolve();
  }

  #find(key: string, operation: string): MemoryObject {
    const found = this.#objects.get(key);
    if (found === undefined) throw this.#error('ENOENT', key, 'there is no such object', operation);
    return found;
  }

  #error(
    code: string,
    key: string,
    reason: string,
    operation: string,
    position?: number,
  ): QemuFileError {
    return new QemuFileError(code, `${this.name}/${key}: ${reason}`, { operation, position });
  }
}

function describe(key: string, { content, modifiedMs }: MemoryObject): StoredObject {
  return { key, bytes: content.length, modifiedMs };
}

function checkSignal(signal: AbortSignal | undefined, operation: string): void {
  if (signal?.aborted) throw abortError(signal, operation);
}
