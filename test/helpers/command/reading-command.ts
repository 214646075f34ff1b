import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { recording, unpack } from '../../fixtures/recording.ts';
import type { TempDir } from '../cleanup.ts';
import type { Ended } from './command.ts';

/** Return whether a program is installed. */
export function has(program: string): boolean {
  return spawnSync(program, ['--version']).status === 0;
}

/** Write bytes into a file of a directory; return its path. */
export function put(dir: TempDir, name: string, bytes: Uint8Array | string): string {
  fs.writeFileSync(dir.join(name), bytes);
  return dir.join(name);
}

/** Write the files of a bundled recording into a directory; return their paths, the main stream's first. */
export function putRecording(dir: TempDir, name: string): string[] {
  return recording(name).files.map((file) =>
    put(dir, file.file.replace(/\.gz$/, ''), unpack(file)),
  );
}

/** Check an exit code, and that standard error is one line without a stack trace. */
export function assertSays(ended: Ended, code: number, ...says: readonly RegExp[]): void {
  assert.equal(ended.code, code, ended.stderr);
  assert.doesNotMatch(ended.stderr, /^ +at /m);
  for (const what of says) assert.match(ended.stderr, what);
}

/** Return the JSON object that standard output consists of, on one line. */
export function jsonIn({ stdout, stderr }: Ended): Record<string, unknown> {
  const text = stdout.toString();
  assert.match(text, /^\{.*\}\n$/, `${text} ${stderr}`);
  return JSON.parse(text) as Record<string, unknown>;
}
