import { QemuFileError } from '../../lib/contract/errors.ts';
import { quote } from '../../lib/util/format.ts';

/** Most bytes of a key; S3 allows 1024, and a prefix in the bucket needs some. */
const MAX_KEY_BYTES = 768;
/** Most bytes of one word of a key: those of a file's name. */
const MAX_WORD_BYTES = 255;

/** A word of a key. Its first character is not a dot: names of temporary files begin with one. */
const WORD = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;
/** The last word of a prefix may be cut anywhere. */
const CUT_WORD = /^(?:[A-Za-z0-9_-][A-Za-z0-9._-]*)?$/;

/** Return whether text is a key of object storage: words of `[A-Za-z0-9._-]`, separated by slashes. */
export function isObjectKey(text: string): boolean {
  return text.length <= MAX_KEY_BYTES && text.split('/').every(isWord);
}

/** @throws {QemuFileError} `EINVAL` for text that is not a key. */
export function checkKey(key: string, operation: string): void {
  if (isObjectKey(key)) return;
  const reason = `${quote(key)} is not a name of an object; use words of A-Z a-z 0-9 . _ - and slashes`;
  throw new QemuFileError('EINVAL', reason, { operation });
}

/** @throws {QemuFileError} `EINVAL` for text that no key can begin with. */
export function checkPrefix(prefix: string, operation: string): void {
  const words = prefix.split('/');
  const last = words.pop() as string;
  if (prefix.length <= MAX_KEY_BYTES && words.every(isWord) && CUT_WORD.test(last)) return;
  throw new QemuFileError('EINVAL', `${quote(prefix)} cannot begin a name of an object`, {
    operation,
  });
}

/** @throws {QemuFileError} `EINVAL` for a range that is not one of an object. */
export function checkRange(offset: number, length: number, operation: string): void {
  if (Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length >= 0)
    return;
  throw new QemuFileError('EINVAL', `${length} bytes from ${offset} are not a range of an object`, {
    operation,
  });
}

function isWord(word: string): boolean {
  return word.length <= MAX_WORD_BYTES && WORD.test(word);
}
