import { readFileSync, writeFileSync } from 'node:fs';
import { onProcessEnd } from '../../helpers/cleanup.ts';

/** Bytes of a page that `memoryOfHugePages` uses. */
export const HUGE_PAGE_BYTES: number = 2 << 20;

const SETTING = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';

/** Huge pages that the host has for as long as a test file needs them. */
export interface HugePages {
  /** The value for the `skip` option of tests that need them: `false`, or why the host has none. */
  readonly skip: string | false;
  /** Give the pages back to the host. */
  release(): void;
}

/** Ask the host for more huge pages of 2 MiB, beside those that it has. */
export function reserveHugePages(count: number): HugePages {
  const before = readCount();
  if (before === undefined) return unavailable(`the kernel has no ${SETTING}`);
  try {
    writeFileSync(SETTING, String(before + count));
  } catch (error) {
    return unavailable(`${SETTING} cannot be written: ${(error as Error).message}`);
  }
  const granted = (readCount() ?? before) - before;
  // Another program may have changed the number meanwhile: take back what was granted here and no more.
  const giveBack = (): void => {
    writeFileSync(SETTING, String(Math.max(0, (readCount() ?? 0) - granted)));
  };
  if (granted < count) {
    giveBack();
    return unavailable(`the host granted ${granted} of ${count} huge pages of 2 MiB`);
  }
  const withdraw = onProcessEnd(giveBack);
  return {
    skip: false,
    release: () => {
      giveBack();
      withdraw();
    },
  };
}

/** Return the arguments of a microvm whose RAM is of huge pages. */
export function memoryOfHugePages(memoryMiB: number): string[] {
  const id = 'microvm.ram';
  const backend = `memory-backend-memfd,id=${id},size=${memoryMiB}M,hugetlb=on,hugetlbsize=2M`;
  return ['-object', backend, '-machine', `memory-backend=${id}`];
}

function readCount(): number | undefined {
  try {
    return Number(readFileSync(SETTING, 'utf8'));
  } catch {
    return undefined;
  }
}

function unavailable(skip: string): HugePages {
  return { skip, release: () => {} };
}
