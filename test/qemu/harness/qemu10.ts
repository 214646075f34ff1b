// A QEMU 10.0 beside the one that Debian 12 has:   node --import tsx test/qemu/harness/qemu10.ts
//
// The packages come from Debian's backports and are unpacked, not installed, into a cache directory of
// the user's, from where a small script runs them.
import assert from 'node:assert/strict';
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder, unpackPackages } from './debian-packages.ts';
import { defaultBinary, qemuVersion } from './harness.ts';

const WANTED = /version 10\.0\./;
const PACKAGES = [
  'qemu-system-x86',
  'qemu-system-common',
  'qemu-system-data',
  // Without these, QEMU finds those of another version that is installed, and aborts.
  'qemu-system-modules-opengl',
  'qemu-system-modules-spice',
  'seabios',
];

/**
 * Gives the path of a QEMU 10.0: the environment's `QEMU10`, or one that was unpacked here, or the one
 * that is installed, if it is of that version.
 */
export function findQemu10(): string | undefined {
  const candidates = [process.env.QEMU10, unpackedPath(), defaultBinary()];
  return candidates.find((path) => path !== undefined && WANTED.test(qemuVersion(path) ?? ''));
}

/**
 * The value for the `skip` option of tests that need QEMU 10.0: `false` where there is one, else the reason.
 *
 * @throws {Error} if it is missing and `CI` is set, because a skipped test in CI would be an unnoticed failure.
 */
export function requireQemu10(): string | false {
  if (findQemu10() !== undefined) return false;
  const reason = 'there is no QEMU 10.0: set QEMU10, or run test/qemu/harness/qemu10.ts';
  if (process.env.CI) throw new Error(`${reason}; these tests must not be skipped in CI`);
  return reason;
}

/**
 * Makes sure that there is a QEMU 10.0; on Debian 12, as root, it can be fetched.
 *
 * @returns Its path.
 * @throws Error with what apt says when that fails.
 */
export async function installQemu10(): Promise<string> {
  const found = findQemu10();
  if (found !== undefined) return found;
  const target = join(cacheFolder(), 'qemu-10.0');
  mkdirSync(cacheFolder(), { recursive: true, mode: 0o700 });
  rmSync(target, { recursive: true, force: true });
  const suite = (codename: string): string => `${codename}-backports`;
  await unpackPackages(target, [{ suite, packages: PACKAGES }]);

  const script = [
    '#!/bin/sh',
    `prefix='${join(target, 'usr')}'`,
    'export QEMU_MODULE_DIR="$prefix/lib/x86_64-linux-gnu/qemu"',
    'exec "$prefix/bin/qemu-system-x86_64" \\',
    '  -L "$prefix/share/qemu" -L "$prefix/share/seabios" "$@"',
  ];
  // The script appears last, so that the files that it names are complete by then.
  writeFileSync(`${unpackedPath()}.new`, `${script.join('\n')}\n`, { mode: 0o755 });
  renameSync(`${unpackedPath()}.new`, unpackedPath());
  const installed = findQemu10();
  assert.ok(installed, 'what was unpacked is a QEMU 10.0 that runs');
  return installed;
}

function unpackedPath(): string {
  return join(cacheFolder(), 'qemu-system-x86_64-10.0');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(`${await installQemu10()}\n`);
}
