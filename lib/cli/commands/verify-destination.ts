import type { Verification } from '../../migration/verify/verify.ts';
import { readDestinationFacts } from '../../vm/preflight/destination-facts.ts';
import { compareWithDestination, type PreflightResult } from '../../vm/preflight/preflight.ts';
import { QmpClient } from '../../vm/qmp/qmp-client.ts';
import { monitorOf } from './vm/vm-command.ts';

/*
 * `qemu-file verify --qmp`. A module of its own, because `verify` without that option starts faster without it.
 */

/**
 * Connect to the monitor of the QEMU that is to load the stream.
 *
 * @param text - The endpoint of the monitor, as typed.
 */
export async function connectMonitor(text: string, signal: AbortSignal): Promise<QmpClient> {
  return QmpClient.connect(monitorOf(text), { signal });
}

/** Compare a stream with the QEMU that is to load it. */
export async function checkDestination(
  { configuration, blocks, sections }: Verification,
  qmp: QmpClient,
): Promise<PreflightResult> {
  const stream = {
    machine: configuration?.machine ?? null,
    capabilities: configuration?.capabilities ?? [],
    blocks,
    sections,
  };
  return compareWithDestination(stream, await readDestinationFacts(qmp));
}
