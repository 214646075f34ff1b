import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { writeWholeFile } from './write-file.ts';

/** A mistake on the command line. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** A file that the command writes beside its main work could not be written. */
export class OutputError extends Error {
  override readonly name = 'OutputError';
  readonly path: string;
  readonly error: QemuFileError;

  /** @param hint - A possible meaning of the error; follows its message. */
  constructor(path: string, error: QemuFileError, hint: string = '') {
    super(error.message + hint, { cause: error });
    this.path = path;
    this.error = error;
  }
}

/**
 * Write text to a file, as `writeWholeFile` does.
 *
 * @throws {OutputError} (rejects) with the path of the file.
 */
export async function writeOutput(path: string, text: string): Promise<void> {
  try {
    await writeWholeFile(path, text);
  } catch (error) {
    throw new OutputError(path, toQemuFileError(error));
  }
}
