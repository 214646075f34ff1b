import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  compareContents,
  compareManifests,
  type Manifest,
  parseManifest,
} from '../../../lib/migration/verify/manifest.ts';

const DIGEST = '0123456789abcdef';
const OTHER = 'fedcba9876543210';

/** A manifest, with some of it changed; what stands in it is JSON of its own. */
function manifest(change: (manifest: Manifest) => void = () => {}): Manifest {
  const made: Manifest = {
    format: 'qemu-file-manifest',
    version: 1,
    machine: 'pc',
    bytes: 1000,
    xxh64: DIGEST,
    sections: [
      {
        sectionId: 2,
        name: 'ram',
        instanceId: 0,
        kind: 'start',
        offset: 20,
        bytes: 80,
        xxh64: DIGEST,
      },
      {
        sectionId: 3,
        name: 'dma',
        instanceId: 1,
        kind: 'full',
        offset: 100,
        bytes: 50,
        xxh64: DIGEST,
      },
    ],
    ram: { pageSize: 4096, blocks: [{ name: 'pc.ram', usedLength: 4096, xxh64: DIGEST }] },
  };
  change(made);
  return made;
}

function compare(
  change: (found: Manifest) => void,
): [reason: string, position: number | undefined][] {
  const faults = compareManifests(manifest(), manifest(change));
  return faults.map(({ message, reason, position }) => {
    return [message.includes('in section') ? message.replace(/^EBADMSG: /, '') : reason, position];
  });
}

describe('parseManifest', () => {
  test('returns the written manifest', () => {
    const made = manifest();
    assert.deepEqual(parseManifest(JSON.stringify(made)), made);
    const none = manifest((one) => {
      one.ram = null;
      one.machine = null;
      one.sections = [];
    });
    assert.deepEqual(parseManifest(JSON.stringify(none)), none);
  });

  const broken: [what: string, text: string][] = [
    ['null', 'null'],
    ['a list', '[]'],
    ['a string', '"manifest"'],
    ['another format', JSON.stringify({ ...manifest(), format: 'sha256sums' })],
    ['a later version', JSON.stringify({ ...manifest(), version: 2 })],
    ['a count of bytes that is not a number', JSON.stringify({ ...manifest(), bytes: '1000' })],
    ['a digest of another length', JSON.stringify({ ...manifest(), xxh64: '0123' })],
    ['sections that are not a list', JSON.stringify({ ...manifest(), sections: {} })],
    ['a section that is not an object', JSON.stringify({ ...manifest(), sections: [null] })],
    [
      'a section of no known kind',
      JSON.stringify({ ...manifest(), sections: [{ ...manifest().sections[0], kind: 'whole' }] }),
    ],
    [
      'a section without a digest',
      JSON.stringify({ ...manifest(), sections: [{ ...manifest().sections[0], xxh64: 1 }] }),
    ],
    ['RAM without blocks', JSON.stringify({ ...manifest(), ram: {} })],
    ['RAM that is not an object', JSON.stringify({ ...manifest(), ram: undefined })],
    [
      'a block without a digest',
      JSON.stringify({ ...manifest(), ram: { blocks: [{ name: 'x' }] } }),
    ],
  ];
  for (const [what, text] of broken) {
    test(`refuses ${what}`, () => {
      assert.throws(() => parseManifest(text), /^TypeError: not a qemu-file manifest: /);
    });
  }

  test('refuses text that is not JSON', () => {
    assert.throws(() => parseManifest('{'), SyntaxError);
  });
});

describe('compareManifests', () => {
  test('finds no difference between equal manifests', () => {
    assert.deepEqual(
      compare(() => {}),
      [],
    );
  });

  test('names the section whose bytes differ', () => {
    const faults = compare((found) => {
      (found.sections[1] as { xxh64: string }).xxh64 = OTHER;
      found.xxh64 = OTHER;
    });
    assert.deepEqual(faults, [
      [`in section "dma" 1: XXH64 ${OTHER}; the manifest lists ${DIGEST} at byte 100`, 100],
      [`the stream as a whole differs: XXH64 ${OTHER}; the manifest lists ${DIGEST}`, undefined],
    ]);
  });

  test('names a RAM block that differs or is missing', () => {
    const other = compare((found) => {
      (found.ram?.blocks[0] as { xxh64: string }).xxh64 = OTHER;
    });
    assert.match(other[0]?.[0] ?? '', /^the contents of RAM block "pc\.ram" differ: /);
    const missing = compare((found) => {
      found.ram = null;
    });
    assert.deepEqual(missing, [['RAM block "pc.ram" is missing', undefined]]);
  });

  test('stops at the first section with another name, kind or size', () => {
    const faults = compare((found) => {
      found.sections = found.sections.map((one) => ({ ...one, offset: one.offset + 1 }));
    });
    assert.deepEqual(faults, [
      [
        'in section "ram": the manifest lists section 1 as "ram" (start, 80 bytes at 20) at byte 21',
        21,
      ],
    ]);
  });

  test('reports fewer or more sections', () => {
    const fewer = compare((found) => {
      found.sections.pop();
      found.bytes = 950;
    });
    assert.deepEqual(fewer, [
      ['the stream has 1 sections; the manifest lists 2', 950],
      ['the stream has 950 bytes; the manifest lists 1000', 950],
    ]);
    const more = compare((found) => {
      found.sections.push({ ...(found.sections[1] as Manifest['sections'][0]), offset: 150 });
    });
    assert.deepEqual(more, [
      ['in section "dma" 1: the stream has 3 sections; the manifest lists 2 at byte 150', 150],
    ]);
  });

  test('escapes control characters from a manifest', () => {
    const expected = manifest((one) => {
      (one.ram?.blocks[0] as { name: string }).name = 'a\u001b[2Jb';
      (one.sections[0] as { name: string }).name = 'c\u0007';
    });
    const faults = compareManifests(expected, manifest());
    assert.equal(faults.length, 2);
    for (const { message } of faults) assert.match(message, /^[\x20-\x7e]+$/);
  });
});

describe('compareContents', () => {
  const contents = (change: (found: Manifest) => void): string[] =>
    compareContents(manifest(), manifest(change)).map(({ reason }) => reason);

  test('finds no difference where only the layout is another', () => {
    const faults = contents((found) => {
      found.bytes = 900;
      found.xxh64 = OTHER;
      (found.sections[0] as { xxh64: string }).xxh64 = OTHER;
      (found.sections[1] as { offset: number }).offset = 30;
      found.sections.reverse();
    });
    assert.deepEqual(faults, []);
  });

  test('names a section that differs, is missing, or is not listed', () => {
    const differs = contents((found) => {
      (found.sections[1] as { xxh64: string }).xxh64 = OTHER;
    });
    assert.deepEqual(differs, [`XXH64 ${OTHER}; the manifest lists ${DIGEST}`]);
    const other = contents((found) => {
      (found.sections[1] as { instanceId: number }).instanceId = 2;
    });
    assert.deepEqual(other, [
      'the stream lacks a section of the manifest: "dma" 1 (full)',
      'the manifest does not list this section',
    ]);
  });

  test('names a RAM block that differs', () => {
    const [reason] = contents((found) => {
      (found.ram?.blocks[0] as { xxh64: string }).xxh64 = OTHER;
    });
    assert.match(reason ?? '', /^the contents of RAM block "pc\.ram" differ: /);
  });
});
