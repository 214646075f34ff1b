// What the tests of a target share: dumps of a QEMU, made by hand, and checks of streams against them.
import assert from 'node:assert/strict';
import type {
  FieldDescription,
  StateDescription,
  VmDescription,
} from '../../../lib/migration/format/device-types.ts';
import type { Configuration } from '../../../lib/migration/format/events.ts';
import {
  type CheckedSection,
  checkTarget,
  describeTargetProblem,
  parseTargetDump,
  type TargetVerdict,
} from '../../../lib/migration/target/check-target.ts';

/** The machine that the streams and the dumps are of. */
export const MACHINE = 'pc-i440fx-7.2';

/** A field as `-dump-vmstate` lists it. */
export function listed(field: string, size: number, more: object = {}): object {
  return { field, version_id: 0, field_exists: false, size, ...more };
}

/** A state as `-dump-vmstate` lists it, version 2, which loads version 1 as well. */
export function state(name: string, fields: object[], more: object = {}): object {
  return { name, version_id: 2, minimum_version_id: 1, Fields: fields, ...more };
}

/** The output of `-dump-vmstate` for types of devices. */
export function dump(states: Record<string, object>, machine: string = MACHINE): object {
  const types = Object.entries(states).map(([type, Description]) => {
    return [type, { Name: type, version_id: 2, minimum_version_id: 1, Description }];
  });
  return { vmschkmachine: { Name: machine }, ...(Object.fromEntries(types) as object) };
}

/** A dump with one type of devices, whose state is `demo`. */
export function demo(fields: object[], more: object = {}): object {
  return dump({ 'demo-device': state('demo', fields, more) });
}

/** Return the configuration of a stream. */
export function configuration(machine: string, capabilities: string[] = []): Configuration {
  return { machine, targetPageBits: null, capabilities, uuid: null };
}

/** Return a device section without its body. */
export function full(name: string, versionId: number, instanceId = 0): CheckedSection {
  return { name, instanceId, versionId, kind: 'full' };
}

/** Check a stream with one device, whose state is `demo`, version 2. */
export function check(
  json: object,
  fields: FieldDescription[],
  { subsections, name = 'demo' }: { subsections?: StateDescription[]; name?: string } = {},
): TargetVerdict {
  const device = { name, instance_id: 0, vmsd_name: 'demo', version: 2, fields };
  const description: VmDescription = {
    page_size: 4096,
    devices: [subsections === undefined ? device : { ...device, subsections }],
  };
  const sections = [full(name, 2)];
  return checkTarget(
    { configuration: configuration(MACHINE), sections, description },
    parseTargetDump(json),
  );
}

/** Check a version of the device, without a description. */
export function checkVersion(json: object, versionId: number): TargetVerdict {
  return checkTarget(
    { configuration: null, sections: [full('demo', versionId)], description: null },
    parseTargetDump(json),
  );
}

/** Return the problems of a verdict in words. */
export function problemsOf({ problems }: TargetVerdict): string[] {
  return problems.map(describeTargetProblem);
}

/** Assert that a target loads the stream. */
export function assertAccepts(verdict: TargetVerdict): void {
  assert.deepEqual(problemsOf(verdict), []);
  assert.equal(verdict.accepts, true);
}

/** Assert that a target does not load the stream, for exactly these problems. */
export function assertRefuses(verdict: TargetVerdict, ...problems: string[]): void {
  assert.deepEqual(problemsOf(verdict), problems);
  assert.equal(verdict.accepts, false);
}
