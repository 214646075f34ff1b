import type { DiffReport } from '../../../lib/cli/report/html.ts';
import type { BlockDifference } from '../../../lib/migration/diff/block-differences.ts';
import type { GuestDifferences } from '../../../lib/migration/diff/compare-guests.ts';
import { HOSTILE } from './report-samples.ts';

/** Return a block of four pages, of which the second became zero and the last is not in the second guest. */
export function blockDifference(name: string): BlockDifference {
  return {
    name,
    usedLength: [4 * 4096, 3 * 4096],
    pages: { changed: 0, becameZero: 1, wasZero: 0, moved: 0 },
    isDifferent: true,
    *ranges() {
      yield { offset: 4096, length: 4096, kind: 'becameZero' };
    },
  };
}

/** Return a report about two guests, by default of two devices and a block. */
export function diffReportOf(differences: Partial<GuestDifferences> = {}): DiffReport {
  const none = { changed: 0, becameZero: 0, wasZero: 0, moved: 0 };
  const device = { instanceId: 0, onlyIn: null, versionIds: null, moreFields: 0 };
  return {
    a: 'a.mig',
    b: 'b.mig',
    differences: {
      isSame: false,
      configuration: [{ path: 'machine', a: 'pc', b: 'q35' }],
      devices: [
        {
          ...device,
          name: 'timer',
          fields: [
            { path: 'ticks', a: 7, b: 18446744073709551615n },
            { path: 'raw', a: Uint8Array.of(1, 2), b: undefined },
          ],
        },
        { ...device, name: 'nic', instanceId: 2, versionIds: [1, 2], fields: [] },
        { ...device, name: 'gone', onlyIn: 'a', fields: [] },
      ],
      blocks: [blockDifference('pc.ram')],
      ...differences,
    },
    mapOf: () =>
      [0, 1, 2, 3].map((page) => ({
        offset: 4096 * page,
        bytes: 4096,
        a: { data: page === 2 ? 0 : 1, pages: 1 },
        b: { data: page === 0 ? 1 : 0, pages: page === 3 ? 0 : 1 },
        kinds: page === 1 ? { ...none, becameZero: 1 } : none,
      })),
  };
}

/** Return a report in which every text is hostile. */
export function hostileDiffReport(): DiffReport {
  return {
    ...diffReportOf({
      configuration: [{ path: 'machine', a: HOSTILE, b: '\u2028\u202e\u0000' }],
      devices: [
        {
          name: HOSTILE,
          instanceId: 0,
          onlyIn: null,
          versionIds: null,
          fields: [{ path: HOSTILE, a: HOSTILE, b: { ['__proto__']: HOSTILE } }],
          moreFields: 0,
        },
      ],
      blocks: [blockDifference(HOSTILE), blockDifference('__proto__')],
    }),
    a: HOSTILE,
    b: HOSTILE,
  };
}
