// Random migrations and faults for a given time:
//
//   npm run soak -- --minutes 60                 prints its seed, which decides what is tried
//   npm run soak -- --seed 7 --only 1234         repeats one trial of a run
//   npm run soak -- --kinds relays,streams       without QEMU
import { parseArgs } from 'node:util';
import { withoutLeaks } from '../helpers/leaks.ts';
import { below, type Chance, chanceOf } from '../helpers/streams/mutate.ts';
import { randomLazyRestore } from './lazy-restores.ts';
import { randomMigration } from './migrations.ts';
import type { Outcome } from './outcome.ts';
import { randomSave } from './saves.ts';
import { randomStore } from './stores.ts';
import { randomStream } from './streams.ts';
import { randomTemplate } from './templates.ts';
import { randomRelay } from './transports.ts';

const KINDS: Readonly<Record<string, (chance: Chance) => Promise<Outcome>>> = {
  migrations: randomMigration,
  saves: randomSave,
  lazy: randomLazyRestore,
  stores: randomStore,
  templates: randomTemplate,
  relays: randomRelay,
  streams: randomStream,
};

/** Number of trials of which one is of each of the slowest kinds. */
const CYCLE = 60;
/** Bytes by which this process may grow, independently of its run time. */
const MAX_GROWTH = 768 * 2 ** 20;
const REPORT_MS = 60_000;

function kindOf(index: number): string {
  if (index % CYCLE === 0) return 'migrations';
  if (index % CYCLE === CYCLE / 2) return 'saves';
  if (index % CYCLE === CYCLE / 4) return 'lazy';
  if (index % CYCLE === CYCLE / 3) return 'stores';
  if (index % CYCLE === (CYCLE * 2) / 3) return 'templates';
  return index % 2 === 0 ? 'streams' : 'relays';
}

/** Return the seed of a trial: each has its own, so that it can be repeated alone. */
function chanceAt(seed: number, index: number): Chance {
  return chanceOf((seed ^ Math.imul(index + 1, 0x9e3779b1)) >>> 0);
}

class Soak {
  readonly #seed: number;
  readonly #kinds: ReadonlySet<string>;
  readonly #counts = new Map<string, number>();
  readonly #startedAt = performance.now();
  readonly #startMemory = process.memoryUsage.rss();
  #tried = 0;
  failures = 0;

  constructor(seed: number, kinds: ReadonlySet<string>) {
    this.#seed = seed;
    this.#kinds = kinds;
  }

  /** Run trials until the time is over. */
  async run(minutes: number): Promise<void> {
    const end = this.#startedAt + minutes * 60_000;
    let reportAt = this.#startedAt + REPORT_MS;
    for (let index = 0; performance.now() < end; index++) {
      if (!this.#kinds.has(kindOf(index))) continue;
      await this.attempt(index);
      if (performance.now() < reportAt) continue;
      print(this.#progress());
      reportAt += REPORT_MS;
    }
  }

  /** Run one trial; count and print a failure. */
  async attempt(index: number, isVerbose: boolean = false): Promise<void> {
    const kind = kindOf(index);
    const attempt = KINDS[kind] as (chance: Chance) => Promise<Outcome>;
    this.#tried += 1;
    try {
      const { what, how } = await withoutLeaks(() => attempt(chanceAt(this.#seed, index)));
      const line = `${kind.padEnd(10)}  ${how}`;
      this.#counts.set(line, (this.#counts.get(line) ?? 0) + 1);
      if (isVerbose) print(`${line}: ${what}`);
      const growth = process.memoryUsage.rss() - this.#startMemory;
      if (growth > MAX_GROWTH) throw new Error(`the process has grown by ${growth} bytes`);
    } catch (error) {
      this.failures += 1;
      print(`FAILED ${kind}, again with: npm run soak -- --seed ${this.#seed} --only ${index}`);
      print((error as Error).stack ?? String(error));
    }
  }

  /** Print the trials and their outcomes. */
  summary(): string {
    const lines = [...this.#counts]
      .sort()
      .map(([line, count]) => `${String(count).padStart(8)}  ${line}`);
    return [...lines, this.#progress()].join('\n');
  }

  #progress(): string {
    const minutes = (performance.now() - this.#startedAt) / 60_000;
    const memory = Math.round(process.memoryUsage.rss() / 2 ** 20);
    return `${minutes.toFixed(1)} min: ${this.#tried} tried, ${this.failures} failed; ${memory} MiB`;
  }
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(below(2 ** 31, Math.random)) },
    only: { type: 'string' },
    kinds: { type: 'string', default: Object.keys(KINDS).join() },
  },
});
const soak = new Soak(Number(values.seed), new Set(values.kinds.split(',')));
print(`seed ${values.seed}`);
if (values.only === undefined) await soak.run(Number(values.minutes));
else await soak.attempt(Number(values.only), true);
print(soak.summary());
process.exitCode = soak.failures > 0 ? 1 : 0;
