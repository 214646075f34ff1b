// The commands for whole stores show on a terminal how far they are.
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openStore } from '../../../../lib/snapshot/index.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { MadeGuest } from '../../../helpers/guests/made-guest.ts';

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const hasTerminal = spawnSync('script', ['--version']).status === 0;

/** Runs commands one after the other on a terminal, and returns what is shown. */
function show(...commands: readonly string[]): Promise<string> {
  const lines = commands.map((args) => `${process.execPath} --import tsx lib/cli/main.ts ${args}`);
  return new Promise((resolve) => {
    execFile('script', ['-qec', lines.join(' && '), '/dev/null'], { cwd: ROOT }, (_, stdout) =>
      resolve(stdout),
    );
  });
}

describe('on a terminal', { skip: !hasTerminal, concurrency: 2 }, () => {
  test('fsck, gc and copy have a progress line', async () => {
    await using dir = makeTempDir();
    const store = await openStore(`store:${dir.join('store')}`);
    await store.writer('guest').writeGuest(new MadeGuest(64));
    await store.close();
    const url = `store:${dir.join('store')}`;
    const copied = `store copy '${url}#guest' store:${dir.join('copy')}`;
    const shown = await show(`store fsck ${url}`, `store gc ${url}`, copied);
    assert.match(shown, /checking manifests and maps.*: ok: 1 snapshot/s);
    assert.match(shown, /looking for what no snapshot needs.*removed 0 objects/s);
    // How much the first frame shows depends on how soon the line is there.
    assert.match(shown, /\d (B|KiB) {2}.*B\/s.*copied "guest"/s);
  });

  test('--quiet leaves the progress line out', async () => {
    await using dir = makeTempDir();
    const url = `store:${dir.join('store')}`;
    const store = await openStore(url);
    await store.writer('guest').writeGuest(new MadeGuest(64));
    await store.close();
    const shown = await show(`store fsck --quiet ${url}`, `store gc --quiet ${url}`);
    assert.equal(shown, '');
  });
});
