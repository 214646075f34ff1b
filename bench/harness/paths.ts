// Files of the package: the benches run as JavaScript in dist/bench.
import { fileURLToPath } from 'node:url';

const ROOT = new URL('.', import.meta.resolve('qemu-file/package.json'));

/** Return the path of a file of the package. */
export function pathOf(name: string): string {
  return fileURLToPath(new URL(name, ROOT));
}

/** The built command. */
export const MAIN: string = pathOf('dist/lib/cli/main.js');
