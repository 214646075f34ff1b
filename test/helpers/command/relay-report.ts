import type { ChannelResult, RelayDirection } from '../../../lib/index.ts';

/** Output of `qemu-file relay --json`. */
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

/** Parse the output of a relay. */
export function reportIn(stdout: Buffer): RelayReport {
  return JSON.parse(stdout.toString()) as RelayReport;
}
