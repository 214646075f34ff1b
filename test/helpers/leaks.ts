import assert from 'node:assert/strict';
import { createHook } from 'node:async_hooks';
import { spawn } from 'node:child_process';
import type { EventEmitter } from 'node:events';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { until } from './until.ts';

/** What else is looked at, and how long things may take to go. */
export interface LeakOptions {
  /** Emitters, by a name for the report, that shall have the listeners they have now. */
  emitters?: Readonly<Record<string, EventEmitter>> | undefined;
  /** How long what was closed may take to be gone. Default 10000. */
  settleMs?: number | undefined;
}

/** A watch over what this process holds: descriptors, children, handles, timers and listeners. */
export interface LeakWatch extends AsyncDisposable {
  /** Checks for the last time. */
  end(): Promise<void>;
  /** Looks no more. */
  stop(): void;
  /** Names what is there at this moment and was not when the watch began. */
  left(): string[];
  /** Waits until nothing is left; fails with the names of what stays. */
  check(): Promise<void>;
}

/**
 * Notes what this process holds; `check()`, or the end of the block of an `await using`, asserts that it
 * holds no more: no descriptor, no child process, no handle or request that keeps the loop alive, no timer
 * (unref'd ones, too), no listener of `process` or of the given emitters.
 *
 * Make ready before it what shall outlive it: modules (imported by then), servers, temporary directories.
 *
 * @example
 * ```ts
 * await using leaks = await watchLeaks();
 * ```
 */
export async function watchLeaks(options: LeakOptions = {}): Promise<LeakWatch> {
  await warmUp();
  const emitters = Object.entries({ process, ...options.emitters });
  const timers = new Map<number, string>();
  const hook = createHook({
    init: (id, type) => {
      if (type === 'Timeout') timers.set(id, placeOf(new Error('a timer')));
    },
    destroy: (id) => void timers.delete(id),
  });
  const descriptors = listDescriptors();
  const children = new Set(listChildren());
  const resources = countResources();
  const listeners = emitters.map(([name, emitter]) => ({
    name,
    emitter,
    before: countListeners(emitter),
  }));
  hook.enable();

  const left = (): string[] => {
    const found: string[] = [];
    for (const [fd, target] of listDescriptors()) {
      if (descriptors.get(fd) !== target) found.push(`descriptor ${fd}: ${target}`);
    }
    for (const pid of listChildren()) {
      if (!children.has(pid)) found.push(`child ${pid}: ${commandOf(pid)}`);
    }
    for (const [type, count] of countResources()) {
      const more = count - (resources.get(type) ?? 0);
      if (more > 0) found.push(`${more} more ${type}`);
    }
    for (const place of timers.values()) found.push(`timer, made ${place}`);
    for (const { name, emitter, before } of listeners) {
      for (const [event, count] of countListeners(emitter)) {
        const more = count - (before.get(event) ?? 0);
        if (more > 0) found.push(`${more} more listeners of ${name} for "${String(event)}"`);
      }
    }
    return found;
  };

  const check = async (): Promise<void> => {
    let found: string[] = [];
    await until(
      async () => {
        // That a timer is gone, the last one of this wait included, is told some turns later.
        for (let i = 0; i < 3; i++) await turn();
        found = left();
        return found.length === 0;
      },
      { what: 'nothing to be left', deadlineMs: options.settleMs ?? 10_000 },
    ).catch(() => {
      assert.fail(`left behind:\n  ${found.join('\n  ')}`);
    });
  };

  const stop = (): void => void hook.disable();
  const end = async (): Promise<void> => {
    try {
      await check();
    } finally {
      stop();
    }
  };

  return {
    left,
    check,
    end,
    stop,
    [Symbol.asyncDispose]: end,
  };
}

/**
 * Does some work, then asserts that it left nothing behind; see {@link watchLeaks}. What the work fails
 * with comes first, unlooked at.
 */
export async function withoutLeaks<T>(
  work: () => Promise<T>,
  options: LeakOptions = {},
): Promise<T> {
  const watch = await watchLeaks(options);
  let failed = true;
  try {
    const result = await work();
    failed = false;
    return result;
  } finally {
    // As an `await using` it would hide the work's own error behind another.
    if (failed) watch.stop();
    else await watch.end();
  }
}

let warm: Promise<unknown> | undefined;

/** The first child makes Node open the pipe by which it hears of signals, for good. */
function warmUp(): Promise<unknown> {
  warm ??= once(spawn('/bin/true', { stdio: 'ignore' }), 'close');
  return warm;
}

/** The open descriptors, and what is behind each. */
function listDescriptors(): Map<string, string> {
  const found = new Map<string, string>();
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      found.set(fd, readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // It was that of the listing itself, or closed by another thread.
    }
  }
  return found;
}

function listChildren(): string[] {
  return readdirSync('/proc/self/task')
    .flatMap((thread) => textOf(`/proc/self/task/${thread}/children`).split(' '))
    .filter((pid) => pid !== '' && !isLoader(pid));
}

/** The compiler of the TypeScript loader, which may start at any import. */
function isLoader(pid: string): boolean {
  return commandOf(pid).includes('esbuild');
}

function commandOf(pid: string): string {
  return textOf(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() || '(a zombie)';
}

/** Empty if it is gone. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

function countResources(): Map<string, number> {
  const counts = new Map<string, number>();
  for (const type of process.getActiveResourcesInfo()) {
    // Known one by one, from the hook.
    if (type !== 'Timeout') counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  return counts;
}

function countListeners(emitter: EventEmitter): Map<string | symbol, number> {
  return new Map(emitter.eventNames().map((event) => [event, emitter.listenerCount(event)]));
}

/** The first line of a stack that is neither here nor in Node. */
function placeOf(error: Error): string {
  const lines = error.stack?.split('\n').slice(1) ?? [];
  const own = lines.find((line) => !line.includes('node:') && !line.includes('helpers/leaks.ts'));
  return (own ?? lines.at(-1) ?? 'nowhere').trim();
}
