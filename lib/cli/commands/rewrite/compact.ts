import { type RewriteFlags, rewriteStream } from './rewrite-command.ts';
import { writeGuest } from './write-guest.ts';

/** Options of `qemu-file compact`. */
export type CompactFlags = RewriteFlags;

/**
 * Run `qemu-file compact`.
 *
 * @param fromText - The endpoint to read, as typed.
 * @param toText - The endpoint to write, as typed.
 * @returns The exit code.
 */
export function runCompact(fromText: string, toText: string, flags: CompactFlags): Promise<number> {
  return rewriteStream('compacted', [fromText, toText], flags, (stream, output, signal) =>
    writeGuest({ fromText, stream, output, flags, signal }),
  );
}
