import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Socket } from 'node:net';
import type { Stream } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { onProcessEnd } from '../cleanup.ts';
import { until, within } from '../until.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
/** Arguments of Node that run the command from its sources. */
const SOURCES: readonly string[] = ['--import', 'tsx', 'lib/cli/main.ts'];

/** Result of a command. */
export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

/** A running `qemu-file`. */
export class Command {
  readonly child: ChildProcess;
  readonly #stdout: Buffer[] = [];
  #stderr = '';
  readonly #ended: Promise<Ended>;

  /**
   * @param args - Arguments after the program's name.
   * @param input - Standard input; empty by default.
   * @param inherit - Descriptors that the command gets as number 3 and up; they stay open in this process.
   * @param program - Arguments of Node that run the command; from its sources by default.
   */
  constructor(
    args: readonly string[],
    input?: string | Buffer,
    inherit: readonly (number | Stream)[] = [],
    program: readonly string[] = SOURCES,
  ) {
    const stdin = input === undefined ? 'ignore' : 'pipe';
    this.child = spawn(process.execPath, [...program, ...args], {
      cwd: ROOT,
      stdio: [stdin, 'pipe', 'pipe', ...inherit],
      // The environment must not change colours or options.
      env: { PATH: process.env.PATH },
    });
    const withdraw = onProcessEnd(() => this.child.kill('SIGKILL'));
    // A command that a failed test leaves must not keep the process of its test file from ending.
    this.child.unref();
    for (const pipe of this.child.stdio) if (pipe instanceof Socket) pipe.unref();
    this.child.stdout?.on('data', (chunk: Buffer) => this.#stdout.push(chunk));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    this.child.stdin?.on('error', () => {}).end(input);
    this.#ended = once(this.child, 'close').then((args: unknown[]) => {
      withdraw();
      const [code, signal] = args as [number | null, NodeJS.Signals | null];
      return { code, signal, stdout: Buffer.concat(this.#stdout), stderr: this.#stderr };
    });
  }

  /** Text written to standard error so far. */
  get stderr(): string {
    return this.#stderr;
  }

  /** Wait until the command listens; return its port, or 0 for a unix socket. */
  async listening(): Promise<number> {
    const line = await until(
      () => /listening on (?:tcp:.*:(\d+)|unix:.*)\n/.exec(this.#stderr) ?? undefined,
      { what: 'the command to listen' },
    );
    return Number(line[1] ?? 0);
  }

  /** Wait for its end. */
  ended(): Promise<Ended> {
    return within(this.#ended, { what: 'the command to end' });
  }
}

/** Run `qemu-file` to its end. */
export function run(args: readonly string[], input?: string | Buffer): Promise<Ended> {
  return new Command(args, input).ended();
}

/** Run `qemu-file` to its end, assert that it succeeded, and return its output. */
export async function runWell(...args: string[]): Promise<Buffer> {
  const { code, stdout, stderr } = await run(args);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}
