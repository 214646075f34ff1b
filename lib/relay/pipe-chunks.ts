import type { QemuFile } from '../qemu-file/qemu-file.ts';

/** Bytes on their way from one file to others. */
export interface Pump {
  /** Resolves at the end of the source; never rejects. */
  readonly ended: Promise<void>;
  /** From now on drops what comes. */
  drop(): void;
}

/**
 * Hands chunks on as they are, and no faster than all sinks take them. Failures are the caller's to
 * watch for: then the source never ends.
 *
 * @param source - Flows until its end.
 * @param sinks - Are not ended.
 * @param onTaken - Gets each chunk once a sink's backend took it.
 */
export function pump(
  source: QemuFile,
  sinks: readonly QemuFile[],
  onTaken?: (chunk: Uint8Array) => void,
): Pump {
  const resume = (): void => {
    for (const sink of sinks) if (sink.writableNeedDrain) return;
    source.resume();
  };
  const write = (chunk: Uint8Array): void => {
    let full = false;
    for (const sink of sinks) if (!sink.write(chunk)) full = true;
    if (full) source.pause();
  };
  const writeNoted = (chunk: Uint8Array): void => {
    const noted = (error: Error | null | undefined): void => {
      if (!error) onTaken?.(chunk);
    };
    for (const sink of sinks) if (!sink.write(chunk, noted)) source.pause();
  };
  const onData = onTaken === undefined ? write : writeNoted;
  for (const sink of sinks) sink.on('drain', resume);
  source.on('data', onData);
  return {
    ended: new Promise((resolve) => source.once('end', resolve)),
    drop: () => {
      source.off('data', onData);
      source.resume();
    },
  };
}
