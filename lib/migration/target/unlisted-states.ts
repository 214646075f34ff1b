/*
 * -dump-vmstate lists the states that belong to a device type. QEMU registers the states below in other ways
 * (`vmstate_register`, `register_savevm_live`), so a dump that lacks them says nothing about them.
 *
 * The names are from QEMU 7.2 to 10.0. Those of x86 machines come from test/tables/unlisted-states.ts, which
 * saves guests and prints what their dump lacks; those of other machines are from QEMU's sources.
 */
const UNLISTED: ReadonlySet<string> = new Set([
  // The machine as a whole.
  'acpi_build',
  'audio',
  'block',
  'dbus-vmstate',
  'dirty-bitmap',
  'globalstate',
  'ram',
  'replay',
  'slirp',
  'timer',
  'virt_acpi_build',
  // Processors and what belongs to each.
  'apic',
  'cpu',
  'cpu_common',
  'icp/server',
  'spapr_cpu',
  'xive/tctx',
  // Buses.
  'PCIBUS',
  'i2c_bus',
  // Devices that register their state themselves, some of them only in older versions.
  'arm_timer',
  'eeprom',
  'i82550',
  'i82551',
  'i82557a',
  'i82557b',
  'i82557c',
  'i82558a',
  'i82558b',
  'i82559a',
  'i82559b',
  'i82559c',
  'i82559er',
  'i82562',
  'i82801',
  'ide',
  'ipmi-bmc-extern',
  'ipmi-bmc-sim',
  'ipmi-interface',
  'isa-ide',
  'isa-ipmi-bt',
  'isa-ipmi-kcs',
  'onenand',
  'or1k_timer',
  'pckbd',
  'ps2kbd',
  'ps2mouse',
  'pxa2xx_cm',
  'pxa2xx_keypad',
  'pxa2xx_lcdc',
  'pxa2xx_mm',
  'pxa2xx_pm',
  'serial',
  'stellaris_gamepad',
  'stellaris_sys',
  'tpm-emulator',
  'tsc2005',
  'tsc2102',
  'tsc210x',
  'vfio',
  'vga',
  'virtio-mem-device-early',
  // Platforms: pseries, s390x.
  's390-skeys',
  's390-storage_attributes',
  's390_control_program_id',
  's390_css',
  'spapr',
  'spapr/htab',
  'spapr_drc',
  'spapr_iommu',
  'todclock',
  'vmstate_diag_318',
]);

/** Return whether QEMU has a state of this name that -dump-vmstate leaves out. */
export function isUnlisted(name: string): boolean {
  return UNLISTED.has(name);
}
