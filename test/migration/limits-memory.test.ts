// Memory and time that a stream claims to need and really gets, each in a process of its own.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const PROBE = fileURLToPath(new URL('../helpers/streams/hostile-memory.ts', import.meta.url));

/** Of the whole process, of which Node.js with its compiler takes nearly 100 MiB. */
const MAX_MEMORY = 768 * 1_048_576;
/** Of the processor, in microseconds. */
const MAX_TIME = 60_000_000;

interface Outcome {
  readonly outcome: string;
  readonly peak: number;
  readonly micros: number;
}

async function probe(name: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', PROBE, name]);
  return stdout;
}

/** The result of each, success included. */
const OUTCOMES: readonly (readonly [name: string, outcome: RegExp])[] = [
  ['a package of 1 GiB that is not there', /^truncated: .* 5 of 1073741824 bytes/],
  ['a package of 600 MB', /^fine$/],
  ['a description of 64 MiB that is not there', /^truncated: .* of 67108864 bytes/],
  ['a description of 64 MiB of text', /^fine$/],
  ['a description of as many parts as may be', /^fine$/],
  ['4096 huge blocks', /^fine$/],
  ['pages all over a block of 1 PiB', /too sparse|^fine$/],
  ['a bitmap of a block of 4 TiB', /^truncated: .* gap before the pages/],
  ['255 channels', /^fine$/],
  ['warnings without end', /^fine$/],
  ['faults without end', /^corrupt: illegal RAM offset 0x4000/],
  ['pieces without end', /^fine$/],
  ['commands without end', /^fine$/],
  ['unknown commands without end', /^unsupported: command 99/],
  [
    'device sections without end, before RAM',
    /^unsupported: more than 67108864 bytes of device sections/,
  ],
  ['device sections without end, behind RAM', /^fine$/],
  ['contents of disks and bytes behind, for a manifest', /^fine$/],
  ['storage keys without end, for a manifest', /^fine$/],
  ['bytes behind it without end', /^fine$/],
];

const skip = existsSync('/proc/self/status') ? false : 'there is no /proc';

describe('a stream that says it needs a lot stays in its bounds:', { skip }, () => {
  for (const [name, outcome] of OUTCOMES) {
    test(name, async () => {
      const found = JSON.parse(await probe(name)) as Outcome;
      assert.match(found.outcome, outcome);
      assert.ok(found.peak < MAX_MEMORY, `${found.peak} bytes`);
      assert.ok(found.micros < MAX_TIME, `${found.micros} µs`);
    });
  }

  test('all of these are tried', async () => {
    assert.deepEqual(
      JSON.parse(await probe('list')),
      OUTCOMES.map(([name]) => name),
    );
  });
});
