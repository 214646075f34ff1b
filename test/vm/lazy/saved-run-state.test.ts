import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { savedRunState } from '../../../lib/vm/lazy/saved-run-state.ts';

/** A guest with nothing but a section `globalstate`: be32 length, then 100 bytes of text. */
function guest(state: string | null): SavedGuest {
  const body = Buffer.alloc(104);
  body.writeUInt32BE((state ?? '').length + 1);
  body.write(state ?? '', 4);
  const section = { kind: 'full', name: 'globalstate', body } as const;
  return { sections: state === null ? [] : [section] } as unknown as SavedGuest;
}

describe('the run state of a saved guest', () => {
  test('is running, stopped, or not in the stream', () => {
    assert.equal(savedRunState(guest('running')), 'running');
    assert.equal(savedRunState(guest('paused')), 'stopped');
    assert.equal(savedRunState(guest('prelaunch')), 'stopped');
    assert.equal(savedRunState(guest(null)), 'unknown');
  });
});
