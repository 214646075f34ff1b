import type { MigrationReader } from '../reader/migration-reader.ts';

/** Return whether the pages of a stream that was read without further channels are in multifd channels. */
export function hasPagesElsewhere({ ram, configuration }: MigrationReader): boolean {
  if (ram.usesMultifd) return true;
  if (configuration?.capabilities.includes('x-ignore-shared') === true) return false;
  // QEMU 7.2 does not say that it uses multifd: no page with data came although pages are missing.
  const { normal, zero, xbzrle, compressed } = ram.total();
  const pages = ram.blocks.reduce((sum, { usedLength }) => sum + usedLength / ram.pageSize, 0);
  return normal + xbzrle + compressed === 0 && zero < pages;
}
