import type { VmFlags } from './vm-command.ts';

/** What an interruption leaves, as a clause. */
export const NO_GUEST_RESTORED = 'no guest was restored';

/** Options of `qemu-file restore`. */
export interface RestoreFlags extends VmFlags {
  /** Name or ID of a snapshot in a qcow2 image. */
  snapshot?: string;
  /** Run the guest first, and fetch its memory when it is needed. */
  lazy?: boolean;
  /** As `lazy`, but restore ordinarily where that is not possible. */
  'lazy=auto'?: boolean;
  /** Go on with a lazy restore whose source has died. */
  recover?: boolean;
  /** Send pages that are asked for over a second connection. */
  preempt?: boolean;
  /** Path for the pages that were asked for. */
  record?: string;
  /** Keep them with the snapshot that is restored. */
  recordInStore?: boolean;
  recordSeconds?: number;
  /** Path of such pages, to send first. */
  prefetch?: string;
  /** Of a template: read its memory and compare its digests first. */
  verify?: boolean;
}
