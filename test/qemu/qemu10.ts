// A QEMU 10.0 beside the one that Debian 12 has:   node --import tsx test/qemu/qemu10.ts
//
// The packages come from Debian's backports and are unpacked, not installed, into a cache directory of
// the user's, from where a small script runs them.
import assert from 'node:assert/strict';
import { type ExecFileSyncOptions, execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeTempDir } from '../helpers/cleanup.ts';
import { defaultBinary, qemuVersion } from './harness.ts';

const WANTED = /version 10\.0\./;
const SOURCES = '/etc/apt/sources.list.d';
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
  const reason = 'there is no QEMU 10.0: set QEMU10, or run test/qemu/qemu10.ts';
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
  await using dir = makeTempDir();
  for (const deb of download(dir.path)) execFileSync('dpkg', ['-x', deb, target]);

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

function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'qemu-file');
}

function unpackedPath(): string {
  return join(cacheFolder(), 'qemu-system-x86_64-10.0');
}

/** Fetches the packages into a folder, with lists of apt's own that are gone afterwards. */
function download(folder: string): string[] {
  mkdirSync(join(folder, 'lists/partial'), { recursive: true });
  writeFileSync(join(folder, 'backports.sources'), backportsSource());
  const options = [
    'Dir::Etc::sourcelist=/dev/null',
    `Dir::Etc::sourceparts=${folder}`,
    `Dir::State::lists=${join(folder, 'lists')}`,
    'Dir::Cache::pkgcache=',
    'Dir::Cache::srcpkgcache=',
    // The fetching user of apt's own cannot write to a folder that is only ours.
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  const io: ExecFileSyncOptions = { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] };
  execFileSync('apt-get', ['-qq', ...options, 'update'], io);
  execFileSync('apt-get', ['-qq', ...options, 'download', ...PACKAGES], io);
  const debs = readdirSync(folder).filter((name) => name.endsWith('.deb'));
  assert.equal(debs.length, PACKAGES.length, 'all packages arrived');
  return debs.map((name) => join(folder, name));
}

/** A source of backports like the source of Debian that this machine has, so that its mirror is used. */
function backportsSource(): string {
  const codename = /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  assert.ok(codename, 'this Debian has a code name');
  const files = existsSync(SOURCES) ? readdirSync(SOURCES) : [];
  for (const file of files.filter((name) => name.endsWith('.sources'))) {
    for (const stanza of readFileSync(join(SOURCES, file), 'utf8').split(/\n\s*\n/)) {
      const suites = /^Suites:(.*)$/m.exec(stanza)?.[1]?.trim().split(/\s+/) ?? [];
      if (suites.includes(codename)) {
        return stanza.trim().replace(/^Suites:.*$/m, `Suites: ${codename}-backports`);
      }
    }
  }
  throw new Error(`${SOURCES} has no source of the suite ${codename} to derive backports from`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(`${await installQemu10()}\n`);
}
