import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { type Ended, run } from '../helpers/command/command.ts';

const FIXTURES = fileURLToPath(new URL('../fixtures/field/', import.meta.url));

/** Folder for the files of one test module; removed after its tests. */
export const FOLDER: string = mkdtempSync(join(tmpdir(), 'qemu-file-field-'));
after(() => rmSync(FOLDER, { recursive: true, force: true }));

/** Return the path of a fixture as a regular file, without its gzip wrapping. */
export function fieldFile(name: string): string {
  const path = join(FOLDER, name);
  writeFileSync(path, fieldBytes(name));
  return path;
}

/** Return the bytes of a fixture. */
export function fieldBytes(name: string): Buffer {
  return gunzipSync(readFileSync(join(FIXTURES, `${name}.gz`)));
}

/** Write bytes to a file and return its path. */
export function writeField(name: string, bytes: Uint8Array): string {
  const path = join(FOLDER, name);
  writeFileSync(path, bytes);
  return path;
}

/** The parts of `inspect --json` that the tests look at. */
export interface Shown {
  ram: { blocks: { name: string; pages: { normal: number } }[] } | null;
  sections: { name: string }[];
  devices: Record<string, unknown>;
  warnings: string[];
}

/** Run `inspect --json` and return its output and its exit code. */
export async function inspect(path: string): Promise<{ shown: Shown; ended: Ended }> {
  const ended = await run(['inspect', path, '--json']);
  return { shown: JSON.parse(ended.stdout.toString()) as Shown, ended };
}

export { assertSays } from '../helpers/command/reading-command.ts';
export { run };
