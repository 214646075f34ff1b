import { mkdtempSync, rmSync } from 'node:fs';

const folders: string[] = [];

/** Make a folder that is removed at the end of the process at the latest, also where a signal or an error ends it. */
export function makeFolder(prefix: string): string {
  if (folders.length === 0) {
    process.once('exit', removeAll);
    // `timeout` sends the first, the terminal the second.
    for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(1));
  }
  const folder = mkdtempSync(prefix);
  folders.push(folder);
  return folder;
}

function removeAll(): void {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}
