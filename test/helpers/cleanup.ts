import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
const pending = new Set<() => void>();

/**
 * Register clean-up that must run even if this process ends early: by `process.exit()`, by an uncaught
 * exception or by a signal.
 *
 * @param undo - Runs at most once; synchronous, because nothing asynchronous runs at that point.
 * @returns A function that removes the registration; call it after an orderly clean-up.
 */
export function onProcessEnd(undo: () => void): () => void {
  if (pending.size === 0) {
    process.on('exit', undoAll);
    for (const signal of SIGNALS) process.on(signal, endBySignal);
  }
  pending.add(undo);
  return () => {
    if (pending.delete(undo) && pending.size === 0) stopListening();
  };
}

function undoAll(): void {
  for (const undo of pending) {
    try {
      undo();
    } catch {
      // The other clean-ups must run nevertheless.
    }
  }
  pending.clear();
}

function endBySignal(signal: NodeJS.Signals): void {
  // Another listener ends the process in order; 'exit' follows it.
  if (process.listenerCount(signal) > 1) return;
  undoAll();
  stopListening();
  process.kill(process.pid, signal);
}

function stopListening(): void {
  process.off('exit', undoAll);
  for (const signal of SIGNALS) process.off(signal, endBySignal);
}

/** A directory that is removed with its contents at the end of its `await using` or of the process. */
export interface TempDir extends AsyncDisposable {
  readonly path: string;
  /** Return the path of a name in the directory. */
  join(name: string): string;
  /** Remove the directory. May be called again. */
  remove(): void;
}

/** Make a temporary directory whose path is short enough for sockets. */
export function makeTempDir(): TempDir {
  const path = mkdtempSync(join(tmpdir(), 'qemu-file-'));
  const remove = () => rmSync(path, { recursive: true, force: true });
  const withdraw = onProcessEnd(remove);
  const removeNow = () => {
    remove();
    withdraw();
  };
  return {
    path,
    join: (name) => join(path, name),
    remove: removeNow,
    [Symbol.asyncDispose]: async () => removeNow(),
  };
}
