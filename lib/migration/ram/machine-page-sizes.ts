/*
 * Page sizes by machine type, from `TARGET_PAGE_BITS` in target/<architecture>/cpu-param.h of QEMU 7.2 to 10.0.
 * Machine types of Arm are missing, because the stream states their page size, and so are those that targets
 * of several page sizes share, such as `virt`. test/tables/machine-page-sizes.ts lists the machine types of
 * installed QEMUs with the page size that this table has for them.
 */

const KIB_4 = 4096;
const KIB_8 = 8192;

/** Machine types of x86, ppc64 and s390x, whose targets have pages of 4 KiB. Versioned names are included. */
const MACHINES_4K =
  /^(pc|isapc|q35|microvm|xenfv|xenpv|pc-.+|xenfv-.+|pseries.*|powernv.*|s390-ccw-virtio.*)$/;

/** Machine types of targets with pages of 8 KiB: alpha, cris (until QEMU 9.1), or1k, sparc64. */
const MACHINES_8K: ReadonlySet<string> = new Set([
  'clipper',
  'axis-dev88',
  'or1k-sim',
  'sun4u',
  'sun4v',
  'niagara',
]);

/** Return the page size in bytes that a machine type always has; null if the machine type is not enough. */
export function pageSizeOfMachine(machine: string): number | null {
  if (MACHINES_4K.test(machine)) return KIB_4;
  return MACHINES_8K.has(machine) ? KIB_8 : null;
}
