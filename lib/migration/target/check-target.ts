import { printable } from '../../util/format.ts';
import type { DeviceDescription, VmDescription } from '../format/device-types.ts';
import type { Configuration, Section } from '../format/events.ts';
import { quoteSection } from '../format/stream-error.ts';
import { compareState, type LayoutProblem, type LayoutReport } from './compare-state.ts';
import { isUnlisted } from './unlisted-states.ts';
import type { TargetDump, TargetState } from './vmstate-dump.ts';

export type { TargetDump, TargetField, TargetState } from './vmstate-dump.ts';
export { parseTargetDump } from './vmstate-dump.ts';

/** The parts of a section that are checked. */
export type CheckedSection = Pick<Section, 'name' | 'instanceId' | 'versionId' | 'kind'>;

type SectionIdentity = Readonly<Pick<Section, 'name' | 'instanceId'>>;

/** A stream, as `checkTarget` needs it. */
export interface TargetCheckInput {
  /** null in streams of old machine types, which have no configuration. */
  readonly configuration: Configuration | null;
  /** In the order of the stream; of iterable sections only the START. */
  readonly sections: readonly CheckedSection[];
  /** null if the stream has none; then only versions can be checked. */
  readonly description: VmDescription | null;
}

/** A difference at which a target would fail to load, or read the wrong bytes. */
export interface TargetProblem {
  /** The section; null for the configuration. */
  readonly section: SectionIdentity | null;
  /** Path of the field or subsection in it; empty for the whole section. */
  readonly path: string;
  /**
   * `machine`: another machine type; `device`: no state of that name; `version`: not in the range that the
   * target loads; `missing`: a field the target expects; `unexpected`: a field it does not; `size`: of a
   * field; `subsection`: one it does not know; `unmigratable`: it cannot load such a device at all.
   */
  readonly kind: 'machine' | 'device' | LayoutProblem['kind'];
  /** Value that the target loads. */
  readonly expected: string;
  /** Value in the stream. */
  readonly found: string;
}

/** Result of `checkTarget`. */
export interface TargetVerdict {
  /** True if there are no problems. */
  readonly accepts: boolean;
  /** In the order of the stream; the target would stop at the first. */
  readonly problems: readonly TargetProblem[];
  /** Parts that could not be checked, and harmless differences. */
  readonly notes: readonly string[];
}

/**
 * Check whether a QEMU would load a stream, without starting it, by its -dump-vmstate.
 *
 * QEMU's scripts/vmstate-static-checker.py compares the dumps of two QEMUs. This differs from it:
 * - It compares a stream with a dump, so only the devices and subsections that the stream has count, and arrays
 *   have the length that they have in the stream.
 * - It needs no list of renamed fields: where names differ, it compares the bytes of the stream with those that the
 *   target loads.
 * - It reports only what the target would fail on or misread; other differences are notes.
 *
 * A dump has the device types that the QEMU was built with, not those it will be started with, so the caller must
 * start both ends with the same devices. It has C sizes and no types, so a change inside a field of the same name
 * and size is not noticed.
 *
 * @param stream - The stream's configuration, sections and VM description.
 * @param dump - The target's states, from `parseTargetDump`.
 */
export function checkTarget(stream: TargetCheckInput, dump: TargetDump): TargetVerdict {
  const check = new TargetCheck(stream.description, dump);
  check.configuration(stream.configuration);
  for (const section of stream.sections) {
    if (section.kind === 'start' || section.kind === 'full') check.section(section);
  }
  return check.verdict();
}

/** Describe a problem, as a clause. */
export function describeTargetProblem({ section, path, expected, found }: TargetProblem): string {
  const where = section === null ? 'configuration' : `section ${quoteSection(section)}`;
  const place = path === '' ? where : `${where}: ${path}`;
  return `${place}: the target expects ${expected}, the stream has ${found}`;
}

class TargetCheck {
  readonly #dump: TargetDump;
  readonly #described: ReadonlyMap<string, DeviceDescription> | undefined;
  readonly #problems: TargetProblem[] = [];
  readonly #notes: Set<string> = new Set();
  readonly #unlisted: Set<string> = new Set();

  constructor(description: VmDescription | null, dump: TargetDump) {
    this.#dump = dump;
    if (description === null) return;
    const described = new Map<string, DeviceDescription>();
    for (const device of description.devices) {
      described.set(keyOf(device.name, device.instance_id), device);
    }
    this.#described = described;
  }

  configuration(configuration: Configuration | null): void {
    const { machine: expected } = this.#dump;
    if (configuration === null) {
      this.#notes.add(`the stream does not name its machine: it must be ${printable(expected)}`);
      return;
    }
    const { machine, capabilities } = configuration;
    // QEMU compares only as many characters as the stream has.
    if (!expected.startsWith(machine)) {
      this.#problems.push({
        section: null,
        path: '',
        kind: 'machine',
        expected: `machine ${printable(expected)}`,
        found: `machine ${printable(machine)}`,
      });
    }
    for (const name of capabilities) {
      this.#notes.add(`the target must have the capability ${printable(name)}, switched on`);
    }
  }

  section({ name, instanceId, versionId, kind }: CheckedSection): void {
    const section = { name, instanceId };
    const device = kind === 'full' ? this.#described?.get(keyOf(name, instanceId)) : undefined;
    const state = this.#stateName(name, device?.vmsd_name);
    const candidates = this.#dump.states.get(state);
    if (candidates !== undefined) {
      this.#compare(section, versionId, device, candidates);
    } else if (isUnlisted(state)) {
      this.#unlisted.add(state);
    } else {
      const found = `"${printable(state)}"`;
      const expected = 'no state of that name';
      this.#problems.push({ section, path: '', kind: 'device', expected, found });
    }
  }

  #compare(
    section: SectionIdentity,
    version: number,
    device: DeviceDescription | undefined,
    candidates: readonly TargetState[],
  ): void {
    // A section without vmsd_name belongs to a handler, whose contents are not described.
    const found = device?.vmsd_name === undefined ? undefined : device;
    if (found === undefined) {
      const what = this.#described === undefined ? 'the stream' : quoteSection(section);
      this.#notes.add(`${what} has no description of fields: only the version was checked`);
    }
    const report = bestFit(found, version, candidates);
    for (const problem of report.problems) this.#problems.push({ section, ...problem });
    for (const note of report.notes) this.#notes.add(`${quoteSection(section)}: ${note}`);
  }

  verdict(): TargetVerdict {
    const notes = [...this.#notes];
    if (this.#unlisted.size > 0) {
      const names = [...this.#unlisted].join(', ');
      notes.push(`-dump-vmstate leaves these states out, so they were not checked: ${names}`);
    }
    return { accepts: this.#problems.length === 0, problems: this.#problems, notes };
  }

  /** Return the name of a section's state, which follows the path of the bus; both may have slashes. */
  #stateName(section: string, described: string | undefined): string {
    if (described !== undefined && (section === described || section.endsWith(`/${described}`))) {
      return described;
    }
    for (let name = section, slash = 0; slash >= 0; name = name.slice(slash + 1)) {
      if (this.#dump.states.has(name) || isUnlisted(name)) return name;
      slash = name.indexOf('/');
    }
    return section.slice(section.lastIndexOf('/') + 1);
  }
}

/** Compare with each state of the name and return the best report: device types that share a name may differ. */
function bestFit(
  device: DeviceDescription | undefined,
  version: number,
  candidates: readonly TargetState[],
): LayoutReport {
  const reports = candidates.map((candidate) => {
    const report: LayoutReport = { problems: [], notes: [] };
    compareState(device, version, candidate, '', report);
    return report;
  });
  return reports.reduce((best, report) => (isBetter(report, best) ? report : best));
}

function isBetter(one: LayoutReport, other: LayoutReport): boolean {
  const more = one.problems.length - other.problems.length;
  return more < 0 || (more === 0 && one.notes.length < other.notes.length);
}

function keyOf(name: string, instanceId: number): string {
  return `${instanceId} ${name}`;
}
