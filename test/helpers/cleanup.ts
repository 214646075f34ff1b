import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
const pending = new Set<() => void>();

/**
 * Registers what must still be undone when this process ends before its own code has done it: it exits,
 * an exception nobody caught ends it, or a signal does.
 *
 * @param undo - Runs once at most; synchronous, because nothing else can run then.
 * @returns Withdraws it: call this when the thing has been undone in order.
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
      // The others must be undone all the same.
    }
  }
  pending.clear();
}

function endBySignal(signal: NodeJS.Signals): void {
  // Whoever else listens has an orderly end of its own in mind; 'exit' then comes after it.
  if (process.listenerCount(signal) > 1) return;
  undoAll();
  stopListening();
  process.kill(process.pid, signal);
}

function stopListening(): void {
  process.off('exit', undoAll);
  for (const signal of SIGNALS) process.off(signal, endBySignal);
}

/** A directory that goes away, with all it holds, at the end of its `await using` or of the process. */
export interface TempDir extends AsyncDisposable {
  readonly path: string;
  /** Gives the path of a name in the directory. */
  join(name: string): string;
  /** Removes the directory. May be called again. */
  remove(): void;
}

/** Makes a new directory among the system's temporary files, with a path short enough for sockets. */
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
