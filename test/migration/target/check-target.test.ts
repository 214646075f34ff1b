import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { findVmDescription } from '../../../lib/migration/devices/find-vm-description.ts';
import {
  type CheckedSection,
  checkTarget,
  parseTargetDump,
} from '../../../lib/migration/target/check-target.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { field as sent } from '../../helpers/streams/demo-device.ts';
import {
  assertAccepts,
  assertRefuses,
  check,
  checkVersion,
  configuration,
  demo,
  dump,
  full,
  listed,
  MACHINE,
  state,
} from './dump.ts';

describe('A dump', () => {
  const good = demo([listed('a', 4)]);

  test('names the machine, and states by their names', () => {
    const { machine, states } = parseTargetDump(good);
    assert.equal(machine, MACHINE);
    assert.deepEqual([...states.keys()], ['demo']);
    assert.equal(states.get('demo')?.[0]?.minimumVersionId, 1);
  });

  test('keeps a state that several types share once', () => {
    const shared = state('demo', [listed('a', 4)]);
    const other = state('demo', [listed('a', 8)]);
    const { states } = parseTargetDump(dump({ one: shared, two: shared, three: other }));
    assert.equal(states.get('demo')?.length, 2);
  });

  test('can have types and fields named as properties of objects are', () => {
    const json = JSON.parse(
      JSON.stringify(dump({ p: state('__proto__', [listed('constructor', 4)]) })).replace(
        '"p":',
        '"__proto__":',
      ),
    ) as object;
    const { states } = parseTargetDump(json);
    assert.deepEqual([...states.keys()], ['__proto__']);
    assert.equal(Object.hasOwn(Object.prototype, 'Description'), false);
  });

  const bad: readonly (readonly [what: string, json: unknown, reason: RegExp])[] = [
    ['no object', [good], /the file is not an object/],
    ['null', null, /the file is not an object/],
    ['a VM description', { page_size: 4096, devices: [] }, /vmschkmachine is missing/],
    ['no machine name', { ...good, vmschkmachine: {} }, /Name of vmschkmachine is not a text/],
    ['no device', { vmschkmachine: { Name: 'pc' } }, /it lists no device/],
    ['a device without a state', { ...good, x: { Name: 'x' } }, /x\.Description is missing/],
    ['fields in no array', demo({} as object[]), /demo-device\.Fields is not an array/],
    [
      'a field of no object',
      demo([7 as unknown as object]),
      /demo-device\.Fields is not an object/,
    ],
    [
      'a version of text',
      demo([], { version_id: '2' }),
      /version_id of demo-device is not an integ/,
    ],
    ['a size of 0.5', demo([listed('a', 0.5)]), /size of demo-device\.a is not an integer/],
    ['no field_exists', demo([{ field: 'a', version_id: 0, size: 4 }]), /field_exists of demo-dev/],
    ['a name of no text', demo([listed(4 as unknown as string, 4)]), /field of demo-device is not/],
    ['subsections in no array', demo([], { Subsections: 1 }), /demo-device\.Subsections is not an/],
    ['an inherited machine', Object.create(good), /vmschkmachine is missing/],
    ['control characters', { ...good, '\x1b': 1 }, /\\u\{1b\} is not an object/],
  ];
  for (const [what, json, reason] of bad) {
    test(`with ${what} is refused, with the way to make one`, () => {
      assert.throws(
        () => parseTargetDump(json),
        (error) => {
          assert.ok(error instanceof QemuFileError);
          assert.equal(error.code, 'EINVAL');
          assert.match(error.message, reason);
          assert.match(error.message, /-M MACHINE -dump-vmstate FILE/);
          return true;
        },
      );
    });
  }

  test('nested without end is refused', () => {
    let nested = state('leaf', []);
    for (let level = 0; level < 5000; level++) {
      nested = state('node', [listed('s', 4, { Description: nested })]);
    }
    assert.throws(() => parseTargetDump(dump({ deep: nested })), /more than 64 levels/);
  });
});

describe('The machine', () => {
  const json = demo([]);
  const target = parseTargetDump(json);
  const withMachine = (machine: string) =>
    checkTarget({ configuration: configuration(machine), sections: [], description: null }, target);

  test('must be the same', () => {
    assertAccepts(withMachine(MACHINE));
    const verdict = withMachine('pc-i440fx-10.0');
    const [problem] = verdict.problems;
    assertRefuses(
      verdict,
      'configuration: the target expects machine pc-i440fx-7.2, the stream has machine pc-i440fx-10.0',
    );
    assert.equal(problem?.section, null);
    assert.equal(problem?.kind, 'machine');
  });

  test('is compared as far as the stream names it, as QEMU does', () => {
    assertAccepts(withMachine('pc-i440fx-'));
    assert.equal(withMachine(`${MACHINE}.1`).accepts, false);
  });

  test('of a stream that does not name it is noted', () => {
    const { notes } = checkTarget({ configuration: null, sections: [], description: null }, target);
    assert.deepEqual(notes, ['the stream does not name its machine: it must be pc-i440fx-7.2']);
  });

  test('must have the capabilities of the stream: they are noted', () => {
    const input = { configuration: configuration(MACHINE, ['mapped-ram']), sections: [] };
    const { accepts, notes } = checkTarget({ ...input, description: null }, target);
    assert.equal(accepts, true);
    assert.deepEqual(notes, ['the target must have the capability mapped-ram, switched on']);
  });
});

describe('A section', () => {
  const json = demo([listed('a', 4)]);
  const target = parseTargetDump(json);
  const checkSections = (...sections: CheckedSection[]) =>
    checkTarget(
      {
        configuration: configuration(MACHINE),
        sections,
        description: { page_size: 4096, devices: [] },
      },
      target,
    );

  test('of a state that the target does not list would stop it', () => {
    const verdict = checkSections(full('0000:00:02.0/other', 1, 3));
    assertRefuses(
      verdict,
      'section "0000:00:02.0/other" 3: the target expects no state of that name, the stream has "other"',
    );
    assert.deepEqual(verdict.problems[0]?.section, { name: '0000:00:02.0/other', instanceId: 3 });
  });

  test("that is not a device's cannot be checked, which is noted once", () => {
    const ram: CheckedSection = { name: 'ram', instanceId: 0, versionId: 4, kind: 'start' };
    const verdict = checkSections(
      ram,
      full('timer', 2),
      full('cpu_common', 1),
      full('cpu_common', 1, 1),
      full('0000:00:03.0/vfio', 1),
      full('spapr/htab', 1),
    );
    assertAccepts(verdict);
    assert.deepEqual(verdict.notes, [
      '-dump-vmstate leaves these states out, so they were not checked: ram, timer, cpu_common, vfio, spapr/htab',
    ]);
  });

  test('is found after the path of its bus, also without a description', () => {
    const verdict = checkSections(full('0000:00:02.0/1/demo', 3));
    assertRefuses(
      verdict,
      'section "0000:00:02.0/1/demo": the target expects version 1 to 2, the stream has version 3',
    );
    assert.deepEqual(verdict.notes, [
      '"0000:00:02.0/1/demo" has no description of fields: only the version was checked',
    ]);
  });

  test('is not taken for another state because its description names that', () => {
    const device = { name: 'other', instance_id: 0, vmsd_name: 'demo', version: 2, fields: [] };
    const description = { page_size: 4096, devices: [device] };
    const sections = [full('other', 2)];
    const verdict = checkTarget({ configuration: null, sections, description }, target);
    assertRefuses(
      verdict,
      'section "other": the target expects no state of that name, the stream has "other"',
    );
  });

  test('in pieces is checked once', () => {
    const piece = (kind: 'start' | 'part' | 'end'): CheckedSection => {
      return { name: 'other', instanceId: 0, versionId: 1, kind };
    };
    assert.equal(checkSections(piece('start'), piece('part'), piece('end')).problems.length, 1);
  });

  test('of a name with control characters is quoted', () => {
    assertRefuses(
      checkSections(full('\x1b[2J', 1)),
      'section "\\u{1b}[2J": the target expects no state of that name, the stream has "\\u{1b}[2J"',
    );
  });

  test('is listed before later ones among the problems', () => {
    const verdict = checkSections(full('z', 1), full('demo', 9), full('a', 1));
    assert.deepEqual(
      verdict.problems.map(({ section }) => section?.name),
      ['z', 'demo', 'a'],
    );
  });

  test('of a type of devices that cannot be migrated would stop the target', () => {
    const locked = { name: 'demo', version_id: 2, minimum_version_id: 1 };
    assertRefuses(
      checkVersion(dump({ locked }), 2),
      'section "demo": the target expects nothing, because it cannot migrate this, the stream has version 2',
    );
  });

  test('needs to fit only one of the types that share its state’s name', () => {
    const types = {
      isa: state('demo', [listed('a', 4)]),
      pci: state('demo', [listed('a', 4), listed('b', 2)]),
    };
    assertAccepts(check(dump(types), [sent('a', 'uint32', 4)]));
    assertAccepts(check(dump(types), [sent('a', 'uint32', 4), sent('b', 'uint16', 2)]));
    assert.equal(check(dump(types), [sent('a', 'uint64', 8)]).problems.length, 1);
  });
});

describe('A version', () => {
  const json = demo([listed('a', 4)]);

  test('from the least to the last that the target loads is accepted', () => {
    assertAccepts(checkVersion(json, 1));
    assertAccepts(checkVersion(json, 2));
  });

  test('beyond the last, or before the least one, would stop the target', () => {
    const text = 'section "demo": the target expects version 1 to 2, the stream has version';
    assertRefuses(checkVersion(json, 3), `${text} 3`);
    assertRefuses(checkVersion(json, 0), `${text} 0`);
    assertRefuses(checkVersion(json, 0xffffffff), `${text} 4294967295`);
  });

  test('of a target that loads but one is named alone', () => {
    assertRefuses(
      checkVersion(demo([], { minimum_version_id: 2 }), 1),
      'section "demo": the target expects version 2, the stream has version 1',
    );
  });

  test('decides which fields are expected', () => {
    const since3 = listed('b', 4, { version_id: 3 });
    const since2 = listed('c', 4, { version_id: 2 });
    const later = demo([listed('a', 4), since3, since2], { version_id: 3 });
    assertAccepts(check(later, [sent('a', 'uint32', 4), sent('c', 'uint32', 4)]));
    assertRefuses(
      check(later, [sent('a', 'uint32', 4), sent('b', 'uint32', 4), sent('c', 'uint32', 4)]),
      'section "demo": b: the target expects no such field, the stream has 4 bytes',
    );
  });

  test("of a structure is the target's, not the stream's", () => {
    const inner = (version: number) =>
      state('inner', [listed('x', 4), listed('y', 4, { version_id: 3 })], { version_id: version });
    const outer = (version: number) => demo([listed('s', 16, { Description: inner(version) })]);
    const struct = { vmsd_name: 'inner', version: 3, fields: [sent('x', 'uint32', 4)] };
    const short = [sent('s', 'struct', 4, { struct })];
    assertAccepts(check(outer(2), short));
    assertRefuses(
      check(outer(3), short),
      'section "demo": s.y: the target expects 4 bytes, the stream has no such field',
    );
  });
});

// QEMU's own dumps, and streams that it loads.
const DUMPS = { '7.2': 'dump-vmstate-7.2.json.gz', '10.0': 'dump-vmstate-10.0.json.gz' } as const;

const absent = corpus(DUMPS['7.2']) === undefined || corpus(DUMPS['10.0']) === undefined;

describe('Recorded streams', { skip: absent && 'there is no corpus' }, () => {
  const read = (version: keyof typeof DUMPS) =>
    JSON.parse(corpusBytes(DUMPS[version]).toString()) as Record<string, unknown>;

  for (const name of corpusNames()) {
    const facts = corpusFacts(name);
    const machine = facts.analyze_migration.configuration?.machine;
    const file = facts.files[0]?.file;
    if (machine === undefined || file === undefined) continue;
    // A list of another machine type differs in its name alone.
    const onX86 = machine === 'isapc' || machine === 'microvm' || machine.startsWith('pc-');
    const loads = (version: string) =>
      onX86 && !(version === '7.2' && facts.machine_type.endsWith('-10.0'));

    for (const version of ['7.2', '10.0'] as const) {
      test(`${name} is ${loads(version) ? 'accepted' : 'refused'} by QEMU ${version}`, () => {
        const json = read(version);
        if (loads(version)) json.vmschkmachine = { Name: machine };
        const verdict = checkTarget(inputOf(name, machine), parseTargetDump(json));
        if (loads(version)) assertAccepts(verdict);
        else assert.equal(verdict.problems[0]?.kind, 'machine');
      });
    }
  }

  test('A stream is refused once the target loads only newer versions of a device', () => {
    const json = read('7.2') as Record<string, { Description: Record<string, unknown> }>;
    for (const type of Object.values(json)) {
      if (type.Description?.name === 'piix4_pm') {
        Object.assign(type.Description, { version_id: 4, minimum_version_id: 4 });
      }
    }
    assertRefuses(
      checkTarget(inputOf('pc-linux', MACHINE), parseTargetDump(json)),
      'section "0000:00:01.3/piix4_pm": the target expects version 4, the stream has version 3',
    );
  });

  function inputOf(name: string, machine: string) {
    const { files, analyze_migration: analysed } = corpusFacts(name);
    const bytes = corpusBytes(files[0]?.file ?? '');
    const sections = analysed.sections.map((section): CheckedSection => {
      const kind = section.name === 'ram' ? 'start' : 'full';
      return {
        name: section.name,
        instanceId: section.instance_id,
        versionId: section.version_id,
        kind,
      };
    });
    const description = findVmDescription(bytes, 0)?.description ?? null;
    return { configuration: configuration(machine), sections, description };
  }
});
