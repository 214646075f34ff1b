import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { CachedPack, FrameCache } from '../../../lib/snapshot/read/frame-cache.ts';
import { InlineFrames } from '../../../lib/snapshot/read/inline-frames.ts';

const CONTENTS = new Uint8Array(1);

/** Return a cache that takes some milliseconds by the clock to open a frame; null: its pack is not open. */
function cacheOf(t: TestContext, milliseconds: (index: number) => number | null): FrameCache {
  let now = 0;
  t.mock.method(performance, 'now', () => now);
  const cache: Pick<FrameCache, 'openNow'> = {
    openNow(_pack, index) {
      const ms = milliseconds(index);
      if (ms === null) return null;
      now += ms;
      return CONTENTS;
    },
  };
  return cache as FrameCache;
}

/** A pack whose frames up to 999 are stored as they are. */
const PACK = {
  frames: new Map(),
  reader: { isStoredAsIs: (index: number) => index < 1000 },
} as unknown as CachedPack;

test('a frame is opened by the reader if it needs no decompression', (t) => {
  const inline = new InlineFrames(cacheOf(t, () => 0));
  assert.equal(inline.open(PACK, 0), CONTENTS);
  assert.equal(inline.open(PACK, 1000), null);
  assert.equal(inline.isOn, true);
});

test('after 10 ms of opening, no frame is opened before the event loop had a turn', async (t) => {
  const inline = new InlineFrames(cacheOf(t, () => 1));
  let opened = 0;
  while (inline.open(PACK, opened) !== null) opened += 1;
  assert.equal(opened, 10);
  assert.equal(inline.isTurnDue, true);
  let hadTurn = false;
  setImmediate(() => {
    hadTurn = true;
  });
  await inline.giveTurn();
  assert.equal(hadTurn, true);
  assert.equal(inline.isTurnDue, false);
});

test('after three slow frames, and after a pack that is not open, 128 frames are left to threads', (t) => {
  for (const [count, ms] of [
    [3, 1.5],
    [1, null],
  ] as const) {
    let isSlow = true;
    const inline = new InlineFrames(cacheOf(t, () => (isSlow ? ms : 0)));
    for (let frame = 0; frame < count; frame++) {
      assert.equal(inline.isOn, true);
      inline.open(PACK, frame);
    }
    assert.equal(inline.isOn, false);
    assert.equal(inline.open(PACK, 5), null);
    for (let frame = 0; frame < 127; frame++) inline.found();
    assert.equal(inline.isOn, false);
    inline.found();
    isSlow = false;
    assert.equal(inline.open(PACK, 5), CONTENTS);
  }
});

test('a slow frame between others does not stop the reader', (t) => {
  const inline = new InlineFrames(cacheOf(t, (index) => (index % 3 === 0 ? 0 : 1.5)));
  for (let frame = 0; frame < 6; frame++) assert.equal(inline.open(PACK, frame), CONTENTS);
  assert.equal(inline.isOn, true);
});
