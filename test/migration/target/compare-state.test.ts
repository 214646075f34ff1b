// The state of a device against what the target describes, field by field.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type {
  FieldDescription,
  StateDescription,
} from '../../../lib/migration/format/device-types.ts';
import { field as sent } from '../../helpers/streams/demo-device.ts';
import { assertAccepts, assertRefuses, check, demo, listed, state } from './dump.ts';

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
