import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pageSizeOfMachine } from '../../../lib/migration/ram/machine-page-sizes.ts';
import { defaultBinary, requireQemu } from '../../qemu/harness/harness.ts';
import { findQemu10, requireQemu10 } from '../../qemu/harness/qemu10.ts';
import { machinesOf } from '../../tables/machine-page-sizes.ts';

/** Machine types that several targets have, so that the name does not decide the page size. */
const AMBIGUOUS = new Set(['none', 'x-remote', 'virt', 'nitro-enclave']);

describe('pageSizeOfMachine', () => {
  test('returns the page size that the targets of a machine type have', () => {
    const KNOWN = { 'pc-q35-10.0': 4096, 'xenfv-4.2': 4096, sun4u: 8192, clipper: 8192 };
    for (const [machine, size] of Object.entries(KNOWN)) {
      assert.equal(pageSizeOfMachine(machine), size, machine);
    }
  });

  test('returns null for a machine type that targets of several page sizes have', () => {
    for (const machine of ['virt', 'none', 'malta', '']) {
      assert.equal(pageSizeOfMachine(machine), null, machine);
    }
  });

  for (const [binary, skip] of [
    [defaultBinary(), requireQemu()],
    [findQemu10() ?? '', requireQemu10()],
  ] as const) {
    test(`knows the machine types of ${binary || 'QEMU 10.0'}`, { skip }, () => {
      const machines = machinesOf(binary).filter((machine) => !AMBIGUOUS.has(machine));
      assert.ok(machines.length > 20);
      for (const machine of machines) assert.equal(pageSizeOfMachine(machine), 4096, machine);
    });
  }
});
