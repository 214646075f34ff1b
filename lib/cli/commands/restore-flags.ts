import type { VmFlags } from './vm-command.ts';

/** Options of `qemu-file restore`. */
export interface RestoreFlags extends VmFlags {
  /** Name or ID of a snapshot in a qcow2 image. */
  snapshot?: string;
  /** Run the guest first, and fetch its memory when it is needed. */
  lazy?: boolean;
}
