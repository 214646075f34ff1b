import assert from 'node:assert/strict';
import { createHook } from 'node:async_hooks';
import { spawn } from 'node:child_process';
import type { EventEmitter } from 'node:events';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { until } from './until.ts';

/** Further objects to watch, and the time that closing may take. */
export interface LeakOptions {
  /** Emitters whose number of listeners must not change, by a name for the report. */
  emitters?: Readonly<Record<string, EventEmitter>> | undefined;
  /** Time that closed things may take to disappear, in milliseconds. Default 30000. */
  settleMs?: number | undefined;
}

/** A watch over the descriptors, children, handles, timers and listeners of this process. */
export interface LeakWatch extends AsyncDisposable {
  /** Check a last time, then stop watching. */
  end(): Promise<void>;
  /** Stop watching without a check. */
  stop(): void;
  /** Return the names of everything that exists now and did not when the watch began. */
  left(): string[];
  /** Wait until nothing is left; reject with the names of leftovers. */
  check(): Promise<void>;
}

/**
 * Start a watch. `check()`, or the end of the block of an `await using`, asserts that this process holds no
 * additional descriptor, child process, handle or request that keeps the loop alive, timer (unref'd ones
 * included), or listener of `process` or of the given emitters.
 *
 * Create everything that outlives the watch before it: imported modules, servers, temporary directories.
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
        // Timers disappear from the report some turns after they end, the last one of this wait included.
        for (let i = 0; i < 3; i++) await turn();
        found = left();
        return found.length === 0;
      },
      { what: 'nothing to be left', deadlineMs: options.settleMs ?? 30_000 },
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
 * Do some work, then assert that it leaked nothing; see {@link watchLeaks}. An error of the work is thrown
 * without that check.
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
    // An `await using` would wrap the work's own error.
    if (failed) watch.stop();
    else await watch.end();
  }
}

let warm: Promise<unknown> | undefined;

/** Start a child once, because the first one makes Node open its signal pipe for good. */
function warmUp(): Promise<unknown> {
  warm ??= once(spawn('/bin/true', { stdio: 'ignore' }), 'close');
  return warm;
}

/** Return the open descriptors and their targets. */
function listDescriptors(): Map<string, string> {
  const found = new Map<string, string>();
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      found.set(fd, readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // The descriptor of the listing itself, or one that another thread closed.
    }
  }
  return found;
}

function listChildren(): string[] {
  return readdirSync('/proc/self/task')
    .flatMap((thread) => textOf(`/proc/self/task/${thread}/children`).split(' '))
    .filter((pid) => pid !== '' && !isLoader(pid));
}

/** Return whether a child is the compiler of the TypeScript loader, which may start at any import. */
function isLoader(pid: string): boolean {
  return commandOf(pid).includes('esbuild');
}

function commandOf(pid: string): string {
  return textOf(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() || '(a zombie)';
}

/** Return the command line of a process; empty if it has ended. */
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
    // The hook reports timers one by one.
    if (type !== 'Timeout') counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  return counts;
}

function countListeners(emitter: EventEmitter): Map<string | symbol, number> {
  return new Map(emitter.eventNames().map((event) => [event, emitter.listenerCount(event)]));
}

/** Return the first line of a stack that is neither in this file nor in Node. */
function placeOf(error: Error): string {
  const lines = error.stack?.split('\n').slice(1) ?? [];
  const own = lines.find((line) => !line.includes('node:') && !line.includes('helpers/leaks.ts'));
  return (own ?? lines.at(-1) ?? 'nowhere').trim();
}
