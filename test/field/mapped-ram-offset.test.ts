import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { run } from '../helpers/command/command.ts';
import { FOLDER, writeField } from './field-stream.ts';

const OFFSET = 65_536;
const MAPPED_RAM = gunzipSync(
  readFileSync(new URL('../fixtures/q10-mapped-ram.mig.gz', import.meta.url)),
);

async function relay(from: string, to: string): Promise<string> {
  const { code, stderr } = await run(['relay', '--quiet', from, to]);
  return code === 0 ? '' : `${code} ${stderr}`;
}

describe('a mapped-ram file with something before the stream', () => {
  const whole = writeField('whole', MAPPED_RAM);
  const shifted = `file:${FOLDER}/shifted,offset=${OFFSET}`;

  test('is made by a relay, with the offsets of its pages rewritten, and read', async () => {
    assert.equal(await relay(whole, shifted), '');
    const { code, stdout } = await run(['verify', shifted]);
    assert.equal(code, 0);
    assert.match(stdout.toString(), /: ok: /);
  });

  test('is copied as it is to the same offset', async () => {
    assert.equal(await relay(shifted, `file:${FOLDER}/same,offset=${OFFSET}`), '');
    const [same, original] = ['same', 'shifted'].map((name) => readFileSync(`${FOLDER}/${name}`));
    assert.ok(same?.subarray(OFFSET).equals((original as Buffer).subarray(OFFSET)));
  });

  test('becomes the original again when it is relayed to the start of a file', async () => {
    assert.equal(await relay(shifted, `${FOLDER}/back`), '');
    assert.ok(readFileSync(`${FOLDER}/back`).equals(MAPPED_RAM));
  });

  test('is refused with exit code 5 where the destination cannot seek', async () => {
    const failure = await relay(shifted, 'exec:cat >/dev/null');
    assert.match(failure, /^5 .*offsets in a mapped-ram stream count from .* relay it to a file$/m);
  });
});
