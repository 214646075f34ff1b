import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

test('results that cannot be written are an error with the reason', () => {
  const args = ['--import', 'tsx', 'lib/cli/main.ts', 'verify', 'test/fixtures/microvm.mig.gz'];
  const full = openSync('/dev/full', 'w');
  try {
    const { status, stderr } = spawnSync(process.execPath, args, {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', full, 'pipe'],
    });
    assert.equal(status, 4);
    assert.match(
      stderr,
      /^qemu-file: ENOSPC: standard output: no space left on device, write; free some space or [^\n]*\n$/,
    );
  } finally {
    closeSync(full);
  }
});
