import type { MigrationStreamError } from '../../migration/format/stream-error.ts';

/** Return what to do about a fault, for people who do not know the format; null where the fault itself says it. */
export function faultHint({ fault, position }: MigrationStreamError): string | null {
  if (fault !== 'truncated' || position === 0) return null;
  return (
    'hint: the stream is incomplete: its migration was cancelled, its disk was full, or it was copied in part; ' +
    'compare its size with the original, or save the guest again'
  );
}
