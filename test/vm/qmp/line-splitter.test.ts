import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LineSplitter } from '../../../lib/vm/qmp/line-splitter.ts';

/** Feed chunks, and return the lines and the code of the error, if any. */
function split(
  lines: LineSplitter,
  ...chunks: readonly (Buffer | string)[]
): (string | undefined)[] {
  const found: (string | undefined)[] = [];
  try {
    for (const chunk of chunks) lines.add(Buffer.from(chunk), (line) => found.push(line));
  } catch (error) {
    found.push((error as { code?: string }).code);
  }
  return found;
}

test('lines are the same at every split', () => {
  const bytes = Buffer.from('{"a": "ä€🐧"}\r\n\n{"b": 2}\nrest');
  for (let cut = 0; cut <= bytes.length; cut++) {
    const lines = new LineSplitter(100, 'test');
    const found = split(lines, bytes.subarray(0, cut), bytes.subarray(cut));
    assert.deepEqual(found, ['{"a": "ä€🐧"}\r', '', '{"b": 2}'], `cut at ${cut}`);
  }
});

test('a line of the maximum length is reported, a longer one is an error', () => {
  assert.deepEqual(split(new LineSplitter(10, 'test'), '0123456789\n'), ['0123456789']);
  assert.deepEqual(split(new LineSplitter(10, 'test'), '0123456789', 'x'), ['EMSGSIZE']);
  assert.deepEqual(split(new LineSplitter(10, 'test'), Buffer.alloc(11)), ['EMSGSIZE']);
});

test('the lines before one that is too long are reported', () => {
  const found = split(new LineSplitter(4, 'test'), 'one\ntwo\nthree\nfour\n');
  assert.deepEqual(found, ['one', 'two', 'EMSGSIZE']);
  assert.throws(
    () => new LineSplitter(4, 'control').add(Buffer.from('three'), () => {}),
    /EMSGSIZE: control: a line is longer than 4 bytes/,
  );
});
