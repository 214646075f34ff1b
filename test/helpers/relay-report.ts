import type { ChannelResult, RelayDirection } from '../../lib/index.ts';

/** What `qemu-file relay --json` prints. */
export interface RelayReport {
  from: string;
  to: string;
  forward: RelayDirection;
  return: RelayDirection | null;
  seconds: number;
  limitedSeconds: number;
  complete: boolean;
  /** Only with `--channels` of 2 or more. */
  channels?: ChannelResult[];
}

/** Reads what a relay printed. */
export function reportIn(stdout: Buffer): RelayReport {
  return JSON.parse(stdout.toString()) as RelayReport;
}
