import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { measureOf } from '../../../../lib/cli/commands/vm/restore-lazily.ts';
import type { LazyProgress } from '../../../../lib/vm/index.ts';

describe('the progress line of a lazy restore', () => {
  const line = (progress?: LazyProgress): string | undefined => measureOf(progress).line;

  test('reports since when the guest runs, and how much of its memory was sent', () => {
    const half = { bytes: 379, total: 1000 };
    assert.equal(line({ resumeMs: 20.6, ...half }), 'running since 21 ms · 37 % of memory');
    assert.equal(line({ resumeMs: 4.25, ...half }), 'running since 4.3 ms · 37 % of memory');
  });

  test('reports that the guest does not run yet, before and after the first bytes', () => {
    assert.equal(line(), 'starting · 0 % of memory');
    const nothing = { resumeMs: null, bytes: 0, total: 0 };
    assert.equal(line(nothing), 'starting · 0 % of memory');
    assert.equal(line({ ...nothing, bytes: 999, total: 1000 }), 'starting · 99 % of memory');
  });
});
