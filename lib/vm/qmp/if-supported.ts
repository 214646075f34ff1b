import { QmpError } from './qmp-error.ts';

/** Return the result of a command; null if this QEMU refuses it, as one does that does not know it. */
export async function ifSupported<T>(result: Promise<T>): Promise<T | null> {
  try {
    return await result;
  } catch (error) {
    if (error instanceof QmpError) return null;
    throw error;
  }
}
