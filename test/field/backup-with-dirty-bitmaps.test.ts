// A guest with dirty bitmaps or VFIO devices: its sections take turns, thousands of times.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  blockList,
  configuration,
  end,
  eos,
  header,
  piece,
  section,
  stream,
  vmDescription,
  zeroPage,
} from '../helpers/streams/stream-bytes.ts';
import { run } from './field-stream.ts';

const TURNS = 500;

function alternating(): Buffer {
  const turns = Array.from({ length: TURNS }, () => [
    piece('part', 2, zeroPage('pc.ram', 0), eos),
    piece('part', 3, '00'),
  ]);
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x1000]), eos),
    section('start', 3, ['vendor-live', 0, 1], '00'),
    ...turns.flat(),
    piece('end', 2, eos),
    piece('end', 3, '00'),
    end,
    vmDescription({ page_size: 4096, devices: [] }),
  );
}

test('inspect of sections that take turns prints one line, and one entry for each of them', async () => {
  const text = await run(['inspect', '-'], alternating());
  assert.equal(text.code, 0, text.stderr);
  const lines = text.stdout.toString().split('\n');
  const folded = lines.filter((line) => / PART/.test(line));
  assert.equal(folded.length, 1, folded.join('\n'));
  assert.match(folded[0] as string, /ram PART, vendor-live PART × 500 /);

  const json = await run(['inspect', '-', '--json'], alternating());
  const { sections } = JSON.parse(json.stdout.toString()) as {
    sections: { kind: string; count?: number }[];
  };
  assert.deepEqual(
    sections.filter(({ kind }) => kind === 'part').map(({ count }) => count),
    [TURNS, TURNS],
  );
});
