import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseProcStat } from '../../../adapters/shared/proc-stat.ts';

/** The fields after the state: parent, group, session …, and the start time as the 22nd of all. */
const AFTER_STATE =
  '1 4242 4000 0 -1 4194304 10 0 0 0 1 2 0 0 20 0 1 0 987654321 2338816 258 18446744073709551615';

test('parses state, process group and start time', () => {
  assert.deepEqual(parseProcStat(`4243 (sh) S ${AFTER_STATE}\n`), {
    isDead: false,
    processGroup: 4242,
    startTime: '987654321',
  });
});

test('parses a command name with spaces, parentheses and fields of its own', () => {
  const stat = parseProcStat(`4243 (a) Z 9 9 9 (b c) R ${AFTER_STATE}`);
  assert.deepEqual(stat, { isDead: false, processGroup: 4242, startTime: '987654321' });
});

test('reports zombies and dead processes as dead, and stopped ones as alive', () => {
  for (const [state, isDead] of [
    ['Z', true],
    ['X', true],
    ['R', false],
    ['D', false],
    ['T', false],
  ] as const) {
    assert.equal(parseProcStat(`4243 (sh) ${state} ${AFTER_STATE}`)?.isDead, isDead, state);
  }
});

test('returns nothing for a text that is not such a file', () => {
  for (const text of [
    '',
    'nonsense',
    '4243 (sh) S 1 4242',
    '4243 (sh) S 1 2 3 4 5 6 7 8 9 0 x y z',
  ]) {
    assert.equal(parseProcStat(text), undefined, text);
  }
});
