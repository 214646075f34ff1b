import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { findVmDescription } from '../../../lib/migration/devices/find-vm-description.ts';
import type {
  FieldDescription,
  StateDescription,
  VmDescription,
} from '../../../lib/migration/format/device-types.ts';
import {
  type CheckedSection,
  checkTarget,
  describeTargetProblem,
  parseTargetDump,
  type TargetVerdict,
} from '../../../lib/migration/target/check-target.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { field as sent } from '../../helpers/streams/demo-device.ts';

const MACHINE = 'pc-i440fx-7.2';

/** A field as `-dump-vmstate` lists it. */
function listed(field: string, size: number, more: object = {}): object {
  return { field, version_id: 0, field_exists: false, size, ...more };
}

/** A state as `-dump-vmstate` lists it, version 2, which loads version 1 as well. */
function state(name: string, fields: object[], more: object = {}): object {
  return { name, version_id: 2, minimum_version_id: 1, Fields: fields, ...more };
}

/** The output of `-dump-vmstate` for types of devices. */
function dump(states: Record<string, object>, machine: string = MACHINE): object {
  const types = Object.entries(states).map(([type, Description]) => {
    return [type, { Name: type, version_id: 2, minimum_version_id: 1, Description }];
  });
  return { vmschkmachine: { Name: machine }, ...(Object.fromEntries(types) as object) };
}

/** A dump with one type of devices, whose state is `demo`. */
function demo(fields: object[], more: object = {}): object {
  return dump({ 'demo-device': state('demo', fields, more) });
}

function configuration(machine: string, capabilities: string[] = []) {
  return { machine, targetPageBits: null, capabilities, uuid: null };
}

function full(name: string, versionId: number, instanceId = 0): CheckedSection {
  return { name, instanceId, versionId, kind: 'full' };
}

/** Checks a stream with one device, whose state is `demo`, version 2. */
function check(
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

/** Checks a version of the device, without a description. */
function checkVersion(json: object, versionId: number): TargetVerdict {
  return checkTarget(
    { configuration: null, sections: [full('demo', versionId)], description: null },
    parseTargetDump(json),
  );
}

function problemsOf({ problems }: TargetVerdict): string[] {
  return problems.map(describeTargetProblem);
}

function assertAccepts(verdict: TargetVerdict): void {
  assert.deepEqual(problemsOf(verdict), []);
  assert.equal(verdict.accepts, true);
}

function assertRefuses(verdict: TargetVerdict, ...problems: string[]): void {
  assert.deepEqual(problemsOf(verdict), problems);
  assert.equal(verdict.accepts, false);
}

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

describe('Fields', () => {
  const a = sent('a', 'uint32', 4);
  const b = sent('b', 'uint16', 2);
  const c = sent('c', 'uint8', 1);

  test('that are the same are accepted', () => {
    assertAccepts(check(demo([listed('a', 4), listed('b', 2), listed('c', 1)]), [a, b, c]));
  });

  test('that the target expects and the stream lacks would go wrong', () => {
    const verdict = check(demo([listed('a', 4), listed('b', 2), listed('c', 1)]), [a, c]);
    assertRefuses(
      verdict,
      'section "demo": b: the target expects 2 bytes, the stream has no such field',
    );
    assert.deepEqual(verdict.problems[0], {
      section: { name: 'demo', instanceId: 0 },
      kind: 'missing',
      path: 'b',
      expected: '2 bytes',
      found: 'no such field',
    });
  });

  test('that the target does not expect are problems at every place', () => {
    const text = 'the target expects no such field, the stream has';
    assertRefuses(check(demo([listed('b', 2)]), [a, b]), `section "demo": a: ${text} 4 bytes`);
    assertRefuses(check(demo([listed('a', 4)]), [a, b]), `section "demo": b: ${text} 2 bytes`);
    assertRefuses(check(demo([]), [c]), `section "demo": c: ${text} 1 byte`);
  });

  test('in another order would go wrong', () => {
    assert.equal(check(demo([listed('b', 2), listed('a', 4)]), [a, b]).accepts, false);
  });

  test('of another size would go wrong', () => {
    assertRefuses(
      check(demo([listed('a', 8), listed('b', 2)]), [a, b]),
      'section "demo": a: the target expects 8 bytes, the stream has 4 bytes',
    );
  });

  test('are each reported, when several would go wrong', () => {
    assertRefuses(
      check(demo([listed('a', 8), listed('b', 2), listed('c', 2)]), [a, b, c]),
      'section "demo": a: the target expects 8 bytes, the stream has 4 bytes',
      'section "demo": c: the target expects 2 bytes, the stream has 1 byte',
    );
  });

  test('whose presence is decided at run time can be there or not, in any version', () => {
    const optional = { field_exists: true, version_id: 9 };
    const json = demo([listed('a', 4), listed('b', 2, optional), listed('c', 1)]);
    assertAccepts(check(json, [a, b, c]));
    assertAccepts(check(json, [a, c]));
  });

  test('of other names but of the same sizes are accepted, with a note', () => {
    const verdict = check(demo([listed('a', 4), listed('was_b', 2), listed('c', 1)]), [a, b, c]);
    assertAccepts(verdict);
    assert.deepEqual(verdict.notes, ['"demo": b: the target takes its bytes for "was_b"']);
  });

  test('of other names and sizes would go wrong', () => {
    assertRefuses(
      check(demo([listed('a', 4), listed('other', 8), listed('c', 1)]), [a, b, c]),
      'section "demo": b: the target expects "other", 8 bytes, the stream has 2 bytes',
    );
  });

  test('of other names are matched after those that are decided at run time', () => {
    const json = demo([
      listed('a', 4),
      listed('old', 4, { field_exists: true }),
      listed('was_b', 2, { field_exists: true }),
      listed('c', 1),
    ]);
    assertAccepts(check(json, [a, b, c]));
  });

  test('that became padding are accepted, one by one or together', () => {
    const padded = check(demo([listed('a', 4), listed('unused', 2), listed('c', 1)]), [a, b, c]);
    assertAccepts(padded);
    assert.deepEqual(padded.notes, ['"demo": b: the target skips its bytes']);
    assertAccepts(check(demo([listed('unused', 6), listed('c', 1)]), [a, b, c]));
    assert.equal(check(demo([listed('unused', 7), listed('c', 1)]), [a, b, c]).accepts, false);
  });

  test('of padding are distinguished by their place', () => {
    const json = demo([listed('unused', 4), listed('a', 4), listed('unused', 8)]);
    const pad = (name: string, size: number) => sent(name, 'unused_buffer', size);
    const fits = check(json, [pad('unused[0]', 4), a, pad('unused[1]', 8)]);
    assertAccepts(fits);
    assert.deepEqual(fits.notes, []);
    assert.equal(check(json, [pad('unused[0]', 8), a, pad('unused[1]', 8)]).accepts, false);
  });

  test('of one name are distinguished by their number', () => {
    // Version 1 had 16 bits of it, which are now read only if the machine says so.
    const json = demo([listed('at', 4, { field_exists: true }), listed('at', 4)]);
    assertAccepts(check(json, [sent('at[1]', 'uint32', 4)]));
    assertAccepts(check(json, [sent('at[0]', 'uint32', 4), sent('at[1]', 'uint32', 4)]));
  });

  test('of one name are distinguished by their size if the numbers differ', () => {
    const optional = { field_exists: true };
    const json = demo([listed('config', 256, optional), listed('config', 4096, optional)]);
    assertAccepts(check(json, [sent('config[0]', 'buffer', 256)]));
    assertAccepts(check(json, [sent('config', 'buffer', 4096)]));
  });

  test('whose own name ends in an index are found by it', () => {
    const json = demo([listed('regs[1]', 4), listed('regs[2]', 4)]);
    const verdict = check(json, [sent('regs[1]', 'uint32', 4), sent('regs[2]', 'uint32', 4)]);
    assertAccepts(verdict);
    assert.deepEqual(verdict.notes, []);
  });

  test('of types with a size of their own are not compared by C sizes', () => {
    const json = demo([listed('t', 48), listed('bits', 8), listed('msix', 0), listed('ram', 1)]);
    const fields = [
      sent('t', 'timer', 8),
      sent('bits', 'bitmap', 32),
      sent('msix', 'msix state', 34),
      sent('ram', 'buffer', 65_536),
    ];
    assertAccepts(check(json, fields));
  });

  test('that are buffers of fixed size must keep it', () => {
    assertRefuses(
      check(demo([listed('data', 512)]), [sent('data', 'buffer', 256)]),
      'section "demo": data: the target expects 512 bytes, the stream has 256 bytes',
    );
  });

  test('named as properties of objects are compared as any others', () => {
    const names = ['__proto__', 'constructor', 'toString'];
    const fields = names.map((name) => sent(name, 'uint32', 4));
    assertAccepts(check(demo(names.map((name) => listed(name, 4))), fields));
    assert.equal(check(demo([]), fields).accepts, false);
  });
});

describe('Arrays', () => {
  const four = sent('regs', 'uint16', 2, { array_len: 4 });

  test('of as many elements are accepted, also where the target does not say how many', () => {
    assertAccepts(check(demo([listed('regs', 2, { num: 4 })]), [four]));
    assertAccepts(check(demo([listed('regs', 2)]), [four]));
  });

  test('of more or fewer elements would go wrong', () => {
    assertRefuses(
      check(demo([listed('regs', 2, { num: 5 })]), [four]),
      'section "demo": regs: the target expects 5 times 2 bytes, the stream has 4 times 2 bytes',
    );
  });

  test('can become buffers, and buffers arrays of bytes', () => {
    const buffer = sent('data', 'buffer', 16);
    assertAccepts(check(demo([listed('data', 1, { num: 16 })]), [buffer]));
    assertAccepts(check(demo([listed('data', 1)]), [buffer]));
    assertAccepts(check(demo([listed('regs', 8)]), [four]));
  });

  test('of structures are compared element by element', () => {
    const inner = state('inner', [listed('x', 4)]);
    const json = demo([listed('s', 16, { num: 2, Description: inner })]);
    const element = (index: number, name: string, size: number): FieldDescription => {
      const struct = { vmsd_name: 'inner', version: 2, fields: [sent(name, 'uint32', size)] };
      return sent('s', 'struct', size, { index, struct });
    };
    assertAccepts(check(json, [element(0, 'x', 4), element(1, 'x', 4)]));
    assertRefuses(
      check(json, [element(0, 'x', 4), element(1, 'x', 8)]),
      'section "demo": s[1].x: the target expects 4 bytes, the stream has 8 bytes',
    );
    assertRefuses(
      check(json, [element(0, 'x', 4)]),
      'section "demo": s: the target expects 2 elements, the stream has 1 elements',
    );
  });

  test('say what differs in all their elements only once', () => {
    const inner = state('inner', [listed('y', 4)]);
    const json = demo([listed('s', 16, { Description: inner })]);
    const elements = [0, 1, 2].map((index) => {
      const struct = { vmsd_name: 'inner', version: 2, fields: [sent('x', 'uint32', 4)] };
      return sent('s', 'struct', 4, { index, struct });
    });
    assert.deepEqual(check(json, elements).notes, [
      '"demo": s[0].x: the target takes its bytes for "y"',
    ]);
  });

  test('with null pointers in them are not counted', () => {
    const inner = state('inner', [listed('x', 4)]);
    const json = demo([listed('s', 8, { num: 4, Description: inner })]);
    const struct = { vmsd_name: 'inner', version: 2, fields: [sent('x', 'uint32', 4)] };
    const elements = [
      sent('s', 'struct', 4, { array_len: 4, struct }),
      sent('s', 'nullptr', 1, { array_len: 2 }),
    ];
    assertAccepts(check(json, elements));
    assertAccepts(check(json, [sent('s', 'uint64', 1, { array_len: 4 })]));
  });

  test('that are often empty can be missing', () => {
    const element = state('memory hotplug device state', [listed('is_enabled', 1)]);
    const fields = [listed('selector', 4), listed('devs', 32, { Description: element })];
    const hotplug = state('memory hotplug state', fields);
    const json = demo([listed('s', 64, { Description: hotplug })]);
    const struct = { vmsd_name: 'x', version: 1, fields: [sent('selector', 'uint32', 4)] };
    assertAccepts(check(json, [sent('s', 'struct', 4, { struct })]));
  });
});

describe('Structures', () => {
  const inner = state('inner', [listed('x', 4), listed('y', 2)]);
  const json = demo([listed('s', 24, { Description: inner })]);
  const struct = (...fields: FieldDescription[]): StateDescription => {
    return { vmsd_name: 'inner', version: 2, fields };
  };
  const x = sent('x', 'uint32', 4);
  const y = sent('y', 'uint16', 2);

  test('are compared by their fields, not by C sizes', () => {
    assertAccepts(check(json, [sent('s', 'struct', 6, { struct: struct(x, y) })]));
    assertRefuses(
      check(json, [sent('s', 'struct', 4, { struct: struct(x) })]),
      'section "demo": s.y: the target expects 2 bytes, the stream has no such field',
    );
  });

  test('of other types that stand inside the field are compared as well', () => {
    for (const type of ['vstruct', 'tmp', 'qtailq', 'qlist', 'gtree']) {
      assertAccepts(check(json, [sent('s', type, 8, struct(x, y))]));
      assert.equal(check(json, [sent('s', type, 8, struct(x))]).accepts, false, type);
    }
  });

  test('in a list can be missing, because the list can be empty', () => {
    assertAccepts(check(json, [sent('s', 'qtailq', 1)]));
  });

  test('in lists are loaded with the version of the field', () => {
    const since2 = state('inner', [listed('x', 4), listed('y', 2, { version_id: 2 })]);
    const list = (version: number) =>
      demo([listed('s', 24, { version_id: version, Description: since2 })]);
    assertAccepts(check(list(2), [sent('s', 'qtailq', 8, struct(x, y))]));
    assertAccepts(check(list(1), [sent('s', 'qtailq', 6, struct(x))]));
    assert.equal(check(list(1), [sent('s', 'qtailq', 8, struct(x, y))]).accepts, false);
  });

  test('can have another name for the field that holds them', () => {
    const verdict = check(json, [sent('t', 'struct', 6, { struct: struct(x, y) })]);
    assertAccepts(verdict);
    assert.deepEqual(verdict.notes, ['"demo": t: the target takes its bytes for "s"']);
    assert.equal(check(json, [sent('t', 'struct', 4, { struct: struct(x) })]).accepts, false);
  });

  test('can replace a field of as many bytes, and the reverse', () => {
    assertAccepts(check(json, [sent('s', 'buffer', 6)]));
    assert.equal(check(json, [sent('s', 'uint32', 4)]).accepts, false);
    const one = demo([listed('s', 4)]);
    assertAccepts(check(one, [sent('s', 'struct', 4, { struct: struct(x) })]));
    assert.equal(check(one, [sent('s', 'struct', 6, { struct: struct(x, y) })]).accepts, false);
  });
});

describe('Subsections', () => {
  const known = state('demo/more', [listed('flag', 1)], { minimum_version_id: 2 });
  const json = demo([listed('a', 4)], { Subsections: [known] });
  const a = sent('a', 'uint32', 4);
  const flag = sent('flag', 'bool', 1);
  const more = (version: number, ...fields: FieldDescription[]): StateDescription => {
    return { vmsd_name: 'demo/more', version, fields };
  };

  test('can be there or not', () => {
    assertAccepts(check(json, [a]));
    assertAccepts(check(json, [a], { subsections: [more(2, flag)] }));
  });

  test('that the target does not know would stop it', () => {
    const subsections = [{ vmsd_name: 'demo/other', version: 1, fields: [] }];
    assertRefuses(
      check(json, [a], { subsections }),
      'section "demo": demo/other: the target expects no such subsection, the stream has version 1',
    );
  });

  test('of a version that the target does not load would stop it', () => {
    const text = 'section "demo": demo/more: the target expects version 2, the stream has version';
    assertRefuses(check(json, [a], { subsections: [more(3, flag)] }), `${text} 3`);
    assertRefuses(check(json, [a], { subsections: [more(1, flag)] }), `${text} 1`);
  });

  test('are compared field by field', () => {
    assertRefuses(
      check(json, [a], { subsections: [more(2)] }),
      'section "demo": demo/more.flag: the target expects 1 byte, the stream has no such field',
    );
  });

  test('of structures are compared as well', () => {
    const inner = state('inner', [listed('x', 4)], { Subsections: [state('inner/z', [])] });
    const nested = demo([listed('s', 8, { Description: inner })]);
    const holding = (name: string) => {
      const subsections = [{ vmsd_name: name, version: 2, fields: [] }];
      const struct = { vmsd_name: 'inner', version: 2, fields: [sent('x', 'uint32', 4)] };
      return [sent('s', 'struct', 17, { struct: { ...struct, subsections } })];
    };
    assertAccepts(check(nested, holding('inner/z')));
    assertRefuses(
      check(nested, holding('inner/q')),
      'section "demo": s.inner/q: the target expects no such subsection, the stream has version 2',
    );
  });
});

test('A description of many fields is compared in time that grows with their number', () => {
  const fields = Array.from({ length: 200_000 }, (_, at) => sent(`f${at}`, 'uint32', 0));
  const verdict = check(demo([listed('a', 4), listed('b', 4)]), fields);
  assert.equal(verdict.problems.length, 1);
  assert.ok(verdict.notes.length < 10);
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
