import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SAMPLE = 'test/fixtures/microvm.mig.gz';

/** Run the command; `stdin` and `stdout` are descriptors. */
function runOn(args: string[], stdin: number | 'ignore', stdout: number): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, ['--import', 'tsx', 'lib/cli/main.ts', ...args], {
    cwd: ROOT,
    encoding: 'utf8',
    stdio: [stdin, stdout, 'pipe'],
  });
}

describe('standard output on a full disk', () => {
  for (const args of [['verify', SAMPLE], ['--help'], ['store', '--help'], ['--version']]) {
    test(`is an error of ${args[0] ?? ''} ${args[1] ?? ''}, with the reason`, () => {
      const full = openSync('/dev/full', 'w');
      try {
        const { status, stderr } = runOn(args, 'ignore', full);
        assert.equal(status, 4);
        assert.match(
          stderr,
          /^qemu-file: ENOSPC: standard output: no space left on device, write; free some space or [^\n]*\n$/,
        );
      } finally {
        closeSync(full);
      }
    });
  }
});

describe('a standard descriptor that was closed', { skip: process.platform !== 'linux' }, () => {
  // Node cannot start a child with a closed descriptor. This is what its child would open in place of it.
  const closed = (): number => openSync('/dev/null', 'r+');

  test('is refused as the target of a stream', () => {
    const output = closed();
    const { status, stderr } = runOn(['relay', SAMPLE, '-'], 'ignore', output);
    closeSync(output);
    assert.equal(status, 4);
    assert.match(stderr, /^qemu-file: "to" \(-\) .*EBADF: .*standard output is closed.*\n$/);
  });

  test('is refused as the source of a stream', () => {
    const [input, output] = [closed(), openSync('/dev/null', 'w')];
    const { status, stderr } = runOn(['inspect', '-'], input, output);
    closeSync(input);
    closeSync(output);
    assert.equal(status, 4);
    assert.match(stderr, /^qemu-file: -: EBADF: .*standard input is closed.*\n$/);
  });

  test('does not disturb a command that does not use it for a stream', () => {
    const [input, output] = [closed(), closed()];
    const { status, stderr } = runOn(['verify', SAMPLE, '--quiet'], input, output);
    closeSync(input);
    closeSync(output);
    assert.deepEqual([status, stderr], [0, '']);
  });
});
