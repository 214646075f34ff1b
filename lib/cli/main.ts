#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { keepCompiledModules } from './compile-cache.ts';

/** Handled before any module is loaded, because scripts ask for the version often. */
const VERSION_FLAGS: readonly unknown[] = ['--version', '-V'];

function version(): string {
  const manifest = readFileSync(new URL(import.meta.resolve('qemu-file/package.json')), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

if (VERSION_FLAGS.includes(process.argv[2])) {
  process.stdout.once('error', (error: Error) => {
    process.exitCode = 4;
    void import('./shell/stdio.ts').then(({ reportOutputError }) => reportOutputError(error));
  });
  process.stdout.write(`${version()}\n`);
} else {
  // The modules of a run from the sources are compiled by what loads them.
  if (import.meta.url.endsWith('.js')) keepCompiledModules();
  if (process.argv[2] === 'restore' && process.argv.some((arg) => arg.startsWith('--lazy'))) {
    // A guest waits: the files of its module are read while those of the command line are compiled.
    import('./commands/vm/restore-lazily.ts').catch(() => {});
  }
  void import('./program.ts')
    .then(({ run }) => run(process.argv.slice(2), version))
    .then((code) => {
      // process.exit() would drop what standard output has not written yet.
      process.exitCode = code;
    });
}
