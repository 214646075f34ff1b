import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { diffHtml } from '../../../lib/cli/report/html.ts';
import type { DiffData } from '../../../lib/cli/report/page/model.ts';
import type { FieldDifference } from '../../../lib/migration/diff/field-differences.ts';
import { diffReportOf, hostileDiffReport } from '../../helpers/command/diff-samples.ts';
import { HOSTILE } from '../../helpers/command/report-samples.ts';

/** The data in a page, as a browser finds it. */
function dataIn(html: string): DiffData {
  const json = /<script type="application\/json" id="report">([^<]*)<\/script>/.exec(html)?.[1];
  return JSON.parse(json ?? '') as DiffData;
}

describe('the page about two guests', () => {
  test('has fields with both values, and two maps of each block', async () => {
    const data = dataIn(await diffHtml(diffReportOf()));
    assert.deepEqual(data, {
      a: 'a.mig',
      b: 'b.mig',
      isSame: false,
      configuration: [{ path: 'machine', a: '"pc', b: '"q35' }],
      devices: [
        {
          name: 'timer',
          note: '',
          fields: [
            { path: 'ticks', a: 7, b: '#18446744073709551615' },
            { path: 'raw', a: '2:0102' },
          ],
          moreFields: 0,
        },
        { name: 'nic/2', note: 'version 1 → 2', fields: [], moreFields: 0 },
        { name: 'gone', note: 'only in A', fields: [], moreFields: 0 },
      ],
      moreDevices: 0,
      blocks: [
        {
          name: 'pc.ram',
          usedLength: [16_384, 12_288],
          pages: { changed: 0, becameZero: 1, wasZero: 0, moved: 0 },
          cellBytes: 4096,
          // Zeros, data, differing, not in the guest.
          cellsA: [0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0],
          cellsB: [0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1],
        },
      ],
      sameBlocks: 0,
    });
  });

  test('has no markup from the streams or from the command line', async () => {
    const html = await diffHtml(hostileDiffReport());
    const tags = (page: string): string[] =>
      page.replaceAll(/<script>[\s\S]*?<\/script>/g, '').match(/<[a-z/!][^\s>]*/gi) ?? [];
    assert.deepEqual(tags(html), tags(await diffHtml(diffReportOf())));
    const data = dataIn(html);
    assert.deepEqual([data.a, data.devices[0]?.fields[0]?.path], [HOSTILE, HOSTILE]);
  });

  test('leaves out what is too much, and says how much', async () => {
    const fields = Array.from({ length: 50_010 }, (_, at): FieldDifference => {
      return { path: `f${at}`, a: at, b: -1 };
    });
    const device = { name: 'd', instanceId: 0, onlyIn: null, versionIds: null, moreFields: 5 };
    const devices = Array.from({ length: 10_003 }, (_, at) => {
      return { ...device, instanceId: at, fields: at === 0 ? fields : [] };
    });
    const data = dataIn(await diffHtml(diffReportOf({ configuration: [], devices })));
    const [first] = data.devices;
    assert.deepEqual([first?.fields.length, first?.moreFields], [50_000, 15]);
    assert.deepEqual([data.devices.length, data.moreDevices], [10_000, 3]);
  });
});
