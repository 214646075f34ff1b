import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { recording, unpack } from '../fixtures/recording.ts';
import type { TempDir } from './cleanup.ts';
import type { Ended } from './command.ts';

/** Whether a program is installed. */
export function has(program: string): boolean {
  return spawnSync(program, ['--version']).status === 0;
}

/** Writes bytes into a file of a directory; gives its path. */
export function put(dir: TempDir, name: string, bytes: Uint8Array | string): string {
  fs.writeFileSync(dir.join(name), bytes);
  return dir.join(name);
}

/** Writes the files of a bundled recording into a directory; gives their paths, the main stream's first. */
export function putRecording(dir: TempDir, name: string): string[] {
  return recording(name).files.map((file) =>
    put(dir, file.file.replace(/\.gz$/, ''), unpack(file)),
  );
}

/** Checks an exit code, and that standard error says something in one line, and has no stack trace. */
export function assertSays(ended: Ended, code: number, ...says: readonly RegExp[]): void {
  assert.equal(ended.code, code, ended.stderr);
  assert.doesNotMatch(ended.stderr, /^ +at /m);
  for (const what of says) assert.match(ended.stderr, what);
}

/** The JSON object that is all of standard output, on one line. */
export function jsonIn({ stdout, stderr }: Ended): Record<string, unknown> {
  const text = stdout.toString();
  assert.match(text, /^\{.*\}\n$/, `${text} ${stderr}`);
  return JSON.parse(text) as Record<string, unknown>;
}
