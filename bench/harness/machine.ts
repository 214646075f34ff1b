import { spawnSync } from 'node:child_process';
import { cpus, release, totalmem } from 'node:os';

/** The machine, and the versions of the tools. */
export interface Machine {
  node: string;
  v8: string;
  cpu: string;
  cores: number;
  memoryGiB: number;
  kernel: string;
  /** First line of each peer's version; null if the peer is missing. */
  tools: Record<string, string | null>;
}

const VERSION_FLAGS: Record<string, string> = { socat: '-V', pv: '--version', cat: '--version' };

/** Return a description of this machine. */
export function machine(): Machine {
  const tools: Machine['tools'] = {};
  for (const [tool, flag] of Object.entries(VERSION_FLAGS)) tools[tool] = versionOf(tool, flag);
  return {
    node: process.version,
    v8: process.versions.v8,
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    tools,
  };
}

function versionOf(tool: string, flag: string): string | null {
  const { stdout } = spawnSync(tool, [flag], { encoding: 'utf8' });
  return stdout ? (/\d+(\.\d+)+/.exec(stdout)?.[0] ?? null) : null;
}
