import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { buildCommand } from '../../../lib/cli/build.ts';
import type { TempDir } from '../cleanup.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const MANIFEST = `${ROOT}package.json`;

/**
 * Build the command as the package has it, where only the package's dependencies are installed.
 *
 * @param dir - An empty directory.
 * @returns The directory of the command, whose program is `main.js`.
 */
export async function buildPackage(dir: TempDir): Promise<string> {
  const { dependencies } = JSON.parse(readFileSync(MANIFEST, 'utf8')) as {
    dependencies: Record<string, string>;
  };
  copyFileSync(MANIFEST, dir.join('package.json'));
  mkdirSync(dir.join('node_modules'));
  for (const name of Object.keys(dependencies)) {
    symlinkSync(`${ROOT}node_modules/${name}`, dir.join(`node_modules/${name}`));
  }
  const built = dir.join('dist/lib/cli');
  await buildCommand(built);
  return built;
}
