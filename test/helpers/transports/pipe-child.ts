// Run by the tests of inherited descriptors: `node --import tsx pipe-child.ts MODE [FD]`. The
// code of an error is written to stderr.
import { pipeOps } from '../../../adapters/pipe/pipe.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';

const [mode, fd] = process.argv.slice(2);
const buffer = new Uint8Array(65536);

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

function codeOf(error: unknown): string {
  return (error as { code?: string }).code ?? String(error);
}

async function read(ops: QemuFileOps): Promise<Uint8Array> {
  const answer = (await ops.getBuffer?.(buffer, 0)) ?? 0;
  return typeof answer === 'number' ? buffer.slice(0, answer) : answer;
}

async function copy(from: QemuFileOps, to: QemuFileOps): Promise<void> {
  for (;;) {
    const chunk = await read(from);
    if (chunk.length === 0) break;
    await to.writevBuffer?.([chunk], 0);
  }
  await from.close?.();
  await to.close?.();
}

const modes: Record<string, () => Promise<void>> = {
  /** Copy standard input to standard output. */
  copy: () => copy(pipeOps(0), pipeOps(1)),
  /** Echo everything that arrives at descriptor FD, a socket. */
  async echo() {
    const ops = pipeOps(Number(fd));
    await copy(ops, ops);
  },
  /** Read the first bytes, and leave the rest of standard input to the next reader. */
  async first() {
    const ops = pipeOps(0);
    const chunk = await read(ops);
    await ops.close?.();
    process.stdout.write(chunk);
    process.stdin.pipe(process.stdout);
  },
  /** Wait for the first bytes only. */
  async stop() {
    const ops = pipeOps(0);
    await read(ops);
    await ops.close?.();
    say('closed');
  },
  /** Write to standard output without end. */
  async flood() {
    const ops = pipeOps(1);
    for (;;) await ops.writevBuffer?.([buffer], 0);
  },
  /** Report the result of opening each standard descriptor in the wrong direction. */
  async wrong() {
    for (const [fd, direction] of [
      [0, 'write'],
      [1, 'read'],
      [2, 'read'],
    ] as const) {
      try {
        pipeOps(fd, { direction });
      } catch (error) {
        say(codeOf(error));
      }
    }
  },
};

try {
  await modes[mode ?? '']?.();
} catch (error) {
  say(codeOf(error));
  process.exitCode = 1;
}
