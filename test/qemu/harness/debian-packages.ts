// Debian packages that tests unpack into the user's cache folder, not install.
import assert from 'node:assert/strict';
import { type ExecFileSyncOptions, execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { makeTempDir } from '../../helpers/cleanup.ts';

const SOURCES = '/etc/apt/sources.list.d';

/** Return the folder of the user's in which tests keep what they have fetched. */
export function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'qemu-file');
}

/** Packages to fetch. */
export interface PackageChoice {
  /** Return the suite, from the code name of this machine's Debian. */
  readonly suite: (codename: string) => string;
  readonly packages: readonly string[];
  /** Fetch what each package depends on first in its place, as a package without contents asks for. */
  readonly isMeta?: boolean;
}

/**
 * Fetch packages from the mirror that this Debian machine uses, and unpack them. Requires root.
 *
 * @param target - The folder to unpack into.
 * @throws Error with what apt says when that fails.
 */
export async function unpackPackages(
  target: string,
  choices: readonly PackageChoice[],
): Promise<void> {
  for (const choice of choices) {
    await using dir = makeTempDir();
    for (const deb of download(dir.path, choice)) execFileSync('dpkg', ['-x', deb, target]);
  }
}

/** Fetch the packages into a folder, with lists of apt's own that are gone afterwards. */
function download(folder: string, { suite, packages, isMeta = false }: PackageChoice): string[] {
  mkdirSync(join(folder, 'lists/partial'), { recursive: true });
  writeFileSync(join(folder, 'test.sources'), sourceOf(suite));
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
  const names = packages.map((name) => (isMeta ? firstDependency(name, options) : name));
  execFileSync('apt-get', ['-qq', ...options, 'download', ...names], io);
  const debs = readdirSync(folder).filter((name) => name.endsWith('.deb'));
  assert.equal(debs.length, packages.length, 'all packages arrived');
  return debs.map((name) => join(folder, name));
}

function firstDependency(name: string, options: readonly string[]): string {
  const text = execFileSync('apt-cache', [...options, 'depends', name], { encoding: 'utf8' });
  const [, dependency] = /^ *Depends: (\S+)$/m.exec(text) ?? [];
  assert.ok(dependency, `${name} depends on a package`);
  return dependency;
}

/** Return a source of a suite like the source of Debian that this machine has, so that its mirror is used. */
function sourceOf(suite: PackageChoice['suite']): string {
  const codename = /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  assert.ok(codename, 'this Debian has a code name');
  const files = existsSync(SOURCES) ? readdirSync(SOURCES) : [];
  for (const file of files.filter((name) => name.endsWith('.sources'))) {
    for (const stanza of readFileSync(join(SOURCES, file), 'utf8').split(/\n\s*\n/)) {
      const suites = /^Suites:(.*)$/m.exec(stanza)?.[1]?.trim().split(/\s+/) ?? [];
      if (suites.includes(codename)) {
        return stanza.trim().replace(/^Suites:.*$/m, `Suites: ${suite(codename)}`);
      }
    }
  }
  throw new Error(`${SOURCES} has no source of the suite ${codename} from which to fetch packages`);
}
