/** Node's major versions on which bench/read-pages.ts, bench/write-pages.ts and bench/relay.ts were run. */
const MEASURED_NODE_MAJORS: ReadonlySet<number> = new Set([20, 22, 24, 26]);

/** Set this environment variable to anything but `0` to switch the fast paths off. */
const SWITCH = 'QEMU_FILE_NO_FAST_PATH';

/**
 * Return whether the fast paths are on. These modules go beyond what Node's public API promises, and are
 * used only where they were measured: direct-read.ts, socket-poll.ts, direct-write.ts and malloc-trim.ts.
 */
export function hasFastPath(
  env: NodeJS.ProcessEnv = process.env,
  platform: NodeJS.Platform = process.platform,
  nodeVersion: string = process.versions.node,
): boolean {
  const isOff = !['', '0', undefined].includes(env[SWITCH]);
  const major = Number.parseInt(nodeVersion, 10);
  return !isOff && platform === 'linux' && MEASURED_NODE_MAJORS.has(major);
}
