import type { Readable } from 'node:stream';

/**
 * Read the body of an answer.
 *
 * @param body - The SDK's `Body`.
 * @param length - Its `Content-Length`.
 * @param check - Called with the length before memory is allocated; throws to refuse it.
 * @throws An error with the code `ECONNRESET` (rejects) if the body ends early.
 */
export async function readBody(
  body: unknown,
  length: number | undefined,
  check: (length: number) => void,
): Promise<Buffer> {
  const stream = body as Readable;
  try {
    const bytes = length ?? 0;
    check(bytes);
    const buffer = Buffer.allocUnsafeSlow(bytes);
    let at = 0;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (at + chunk.length > bytes) throw brokenBody(`more than ${bytes} bytes came`);
      buffer.set(chunk, at);
      at += chunk.length;
    }
    if (at < bytes) throw brokenBody(`only ${at} of ${bytes} bytes came`);
    return buffer;
  } finally {
    // A connection with a body that is not read would stay in use.
    stream.destroy();
  }
}

function brokenBody(message: string): Error {
  return Object.assign(new Error(message), { code: 'ECONNRESET' });
}
