// `qemu-file inspect --snapshots` and `--xml`.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { assertSays, jsonIn, put } from '../../helpers/command/reading-command.ts';
import { libvirtImage } from '../../helpers/streams/libvirt-image.ts';
import { qcow2 } from '../../helpers/streams/qcow2-bytes.ts';
import { workedExample } from '../../helpers/streams/stream-bytes.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** The VM state of a snapshot: the worked example, padded to clusters of 512 bytes. */
function cells(): Buffer[] {
  const bytes = Buffer.concat([workedExample(), Buffer.alloc(512)]);
  return Array.from({ length: Math.ceil(workedExample().length / 512) }, (_, at) =>
    bytes.subarray(512 * at, 512 * (at + 1)),
  );
}

const NAMES = ['before-update', 'Übergabe März', '更新前', "o'clock", 'a\u001b[31m\u202eb'];

function image(): Buffer {
  const state = { cells: cells(), vmStateSize: workedExample().length, seconds: 1_600_000_000 };
  return qcow2({
    snapshots: [
      ...NAMES.map((name, at) => ({ ...state, id: `${at + 1}`, name })),
      { id: '9', name: 'disk', cells: [], vmStateSize: 0, seconds: 0 },
    ],
  }).bytes;
}

describe('inspect --snapshots', { concurrency }, () => {
  test('lists the snapshots of an image, with names that a terminal does not obey', async () => {
    await using dir = makeTempDir();
    const { code, stdout, stderr } = await run([
      'inspect',
      '--snapshots',
      put(dir, 'vm.qcow2', image()),
    ]);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(
      stdout.toString(),
      `ID  DATE                  VM STATE   NAME
1   2020-09-13T12:26:40Z  4.55 KiB   before-update
2   2020-09-13T12:26:40Z  4.55 KiB   'Übergabe März'
3   2020-09-13T12:26:40Z  4.55 KiB   更新前
4   2020-09-13T12:26:40Z  4.55 KiB   'o'\\''clock'
5   2020-09-13T12:26:40Z  4.55 KiB   $'a\\x1b[31m\\xe2\\x80\\xaeb'
9   1970-01-01T00:00:00Z  disk only  disk
`,
    );
  });

  test('lists names that can be pasted after --snapshot', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.qcow2', image());
    const { stdout } = await run(['inspect', '--snapshots', path]);
    const words = stdout
      .toString()
      .trimEnd()
      .split('\n')
      .slice(1, 6)
      .map((line) => line.replace(/^(\S+ +){4}/, ''));
    const echoed = execFileSync('bash', ['-c', `printf '%s\\n' ${words.join(' ')}`], {
      encoding: 'utf8',
    });
    assert.deepEqual(echoed.trimEnd().split('\n'), NAMES);
    const chosen = await run(['inspect', path, '--snapshot', 'Übergabe März', '--json']);
    assert.equal(chosen.code, 0, chosen.stderr);
  });

  test('prints JSON', async () => {
    await using dir = makeTempDir();
    const ended = await run(['inspect', put(dir, 'vm.qcow2', image()), '--snapshots', '--json']);
    const { snapshots: list } = jsonIn(ended) as { snapshots: { name: string }[] };
    assert.deepEqual(
      list.map(({ name }) => name),
      [...NAMES, 'disk'],
    );
    assert.deepEqual(Object.keys(list[0] as object), [
      ...['id', 'name', 'date', 'vmStateSize', 'diskSize', 'vmClock'],
    ]);
  });

  test('names letters beyond ASCII as they are when a snapshot is not found', async () => {
    await using dir = makeTempDir();
    const ended = await run(['inspect', put(dir, 'a', image()), '--snapshot', 'Mai']);
    assertSays(ended, 3, /no snapshot "Mai".*"Übergabe März" \(id 2\), "更新前" \(id 3\)/);
  });

  test('fails with 2 for another file, and beside other options', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    assertSays(await run(['inspect', '--snapshots', path]), 2, /not a qcow2 image/);
    const store = await run(['inspect', '--snapshots', 'store:/srv/vm']);
    assertSays(store, 2, /use "qemu-file store ls"/);
    const both = await run(['inspect', '--snapshots', '--snapshot', 'a', path]);
    assertSays(both, 2, /remove one of them/);
    assertSays(await run(['inspect', '--snapshots', '--xml', path]), 2, /prints nothing else/);
  });

  test('fails with 5 for an encrypted image, with a way around', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.qcow2', qcow2({ encryption: 2 }).bytes);
    assertSays(await run(['inspect', '--snapshots', path]), 5, /encrypted, and qemu-nbd .*-loadvm/);
  });
});

describe('inspect --xml', { concurrency }, () => {
  const xml = '<domain type="kvm">\n  <name>web-1</name>\n</domain>\n';
  const cookie = '<qemu-cookie/>';

  test('prints the domain XML of a save image of libvirt, and its cookie', async () => {
    const { code, stdout, stderr } = await run(
      ['inspect', '-', '--xml'],
      libvirtImage(workedExample(), { xml, cookie }),
    );
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(stdout.toString(), `${xml}${cookie}\n`);
    const alone = await run(['inspect', '-', '--xml'], libvirtImage(workedExample(), { xml }));
    assert.equal(alone.stdout.toString(), xml);
  });

  test('prints JSON', async () => {
    const ended = await run(
      ['inspect', '-', '--xml', '--json'],
      libvirtImage(workedExample(), { xml, cookie }),
    );
    assert.deepEqual(jsonIn(ended), { xml, cookie, wasRunning: true, format: 'raw' });
  });

  test('prints control characters as references', async () => {
    const ended = await run(
      ['inspect', '-', '--xml'],
      libvirtImage(workedExample(), { xml: '<a>\u001b[31m</a>' }),
    );
    assert.equal(ended.stdout.toString(), '<a>&#27;[31m</a>\n');
  });

  test('fails with 2 for a stream without XML', async () => {
    const ended = await run(['inspect', '-', '--xml'], workedExample());
    assertSays(ended, 2, /not a save image of libvirt/);
  });
});
