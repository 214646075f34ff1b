// `qemu-file verify`, as its users meet it.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, type Ended, run } from '../../helpers/command/command.ts';
import { assertSays, jsonIn, put, putRecording } from '../../helpers/command/reading-command.ts';
import { corpus } from '../../helpers/streams/corpus.ts';
import { workedExample } from '../../helpers/streams/stream-bytes.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** Places in the worked example: the fill of its page, its device's body, and the ids of footers. */
const PAGE_BYTE = 200;
const DEVICE_BYTE = 4288;
const START_FOOTER = 95;
const PART_FOOTER = 4233;

/** The worked example, with other bytes at some places. */
function changed(...places: readonly number[]): Buffer {
  const bytes = workedExample();
  for (const at of places) bytes[at] = (bytes[at] as number) ^ 0x40;
  return bytes;
}

/** Lines on standard error, without the command's name. */
function said({ stderr }: Ended): string[] {
  return stderr
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.replace(/^qemu-file: /, ''));
}

async function manifestOf(dir: TempDir, ...from: string[]): Promise<string> {
  const path = dir.join('manifest.json');
  const { code, stderr } = await run(['extract', ...from, '--manifest', path, '--quiet']);
  assert.equal(code, 0, stderr);
  return path;
}

describe('verify', { concurrency }, () => {
  test('says of a sound stream in one line that it is', async () => {
    const { code, stdout, stderr } = await run(['verify', '-'], workedExample());
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(stdout.toString(), '-: ok: pc-i440fx-7.2, 4 sections, 4.55 KiB (4664 bytes)\n');
    const quiet = await run(['verify', '-', '--quiet'], workedExample());
    assert.deepEqual([quiet.code, quiet.stderr, quiet.stdout.length], [0, '', 0]);
  });

  test('--json prints one object, for a sound stream and for a bad one', async () => {
    const fine = await run(['verify', '-', '--json'], workedExample());
    assert.equal(fine.code, 0);
    assert.deepEqual(jsonIn(fine), {
      from: '-',
      ok: true,
      bytes: 4664,
      machine: 'pc-i440fx-7.2',
      sections: 4,
      faults: [],
      warnings: [],
    });
    const bad = await run(['verify', '-', '--json'], changed(PART_FOOTER));
    assert.equal(bad.code, 1);
    const { ok, faults } = jsonIn(bad);
    assert.equal(ok, false);
    assert.deepEqual(faults, [
      {
        message: 'EBADMSG: in section "ram": the section footer has id 66, not 2 at byte 4230',
        reason: 'the section footer has id 66, not 2',
        fault: 'corrupt',
        offset: 4230,
        section: { sectionId: 2, name: 'ram', instanceId: 0 },
      },
    ]);
  });

  test('stops at the first fault, and continues with --all', async () => {
    const bytes = changed(START_FOOTER, PART_FOOTER);
    const first = await run(['verify', '-'], bytes);
    assert.equal(first.code, 1);
    assert.equal(first.stdout.length, 0);
    assert.equal(said(first).length, 1);
    assert.match(said(first)[0] ?? '', /section footer has id 66, not 2 at byte 92$/);
    const all = await run(['verify', '-', '--all'], bytes);
    assert.equal(all.code, 1);
    assert.deepEqual(
      said(all).map((line) => /at byte (\d+)$/.exec(line)?.[1]),
      ['92', '4230'],
    );
  });

  test('takes a multifd migration with its channels, and misses them otherwise', async () => {
    await using dir = makeTempDir();
    const [path = '', ...channels] = putRecording(dir, 'multifd-zlib');
    const options = channels.flatMap((channel) => ['--channel', channel]);
    const whole = await run(['verify', path, ...options]);
    assert.equal(whole.code, 0, whole.stderr);
    assertSays(await run(['verify', path, ...options.slice(2)]), 1, /channel/);
  });

  test('requires the VM description, unless an option says that there is none', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample().subarray(0, 4321));
    const ended = await run(['verify', path]);
    assertSays(ended, 1, /VM description is missing.*suppress-vmdesc=on/);
    const told = await run(['verify', path, '--no-description']);
    assertSays(told, 0, /looking for footers/);
    assert.match(told.stdout.toString(), /: ok: /);
  });
});

describe('verify --manifest', { concurrency }, () => {
  test('names a file that is not one, and what it should be', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const other = await run(['verify', path, '--manifest', path]);
    assertSays(
      other,
      2,
      /^qemu-file: --manifest \S*vm\.mig: not JSON; give a file that --manifest of/,
    );
    const directory = await run(['verify', path, '--manifest', dir.path]);
    assertSays(directory, 2, /^qemu-file: --manifest \/\S*: EISDIR: /);
  });

  test('accepts a stream that has not changed since its manifest', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const manifest = await manifestOf(dir, path);
    const { code, stdout, stderr } = await run(['verify', path, '--manifest', manifest]);
    assert.equal(code, 0, stderr);
    assert.match(stdout.toString(), /: ok: /);
  });

  test('names the section in which one byte is another', async () => {
    await using dir = makeTempDir();
    const manifest = await manifestOf(dir, put(dir, 'vm.mig', workedExample()));
    const inPage = await run(['verify', '-', '--manifest', manifest], changed(PAGE_BYTE));
    assertSays(inPage, 1, /in section "ram": XXH64 [0-9a-f]{16}; the manifest lists .* byte 96$/m);
    assert.equal(said(inPage).length, 1);
    const inDevice = await run(['verify', '-', '--manifest', manifest], changed(DEVICE_BYTE));
    assertSays(inDevice, 1, /in section "demo": XXH64 .* byte 4270$/m);
  });

  test('with --all also names the RAM block', async () => {
    await using dir = makeTempDir();
    const manifest = await manifestOf(dir, put(dir, 'vm.mig', workedExample()));
    const options = ['--manifest', manifest, '--all', '--json'];
    const ended = await run(['verify', '-', ...options], changed(PAGE_BYTE));
    assert.equal(ended.code, 1);
    const [section, block, whole, ...more] = said(ended);
    assert.match(section ?? '', /in section "ram"/);
    assert.match(block ?? '', /the contents of RAM block "pc\.ram" differ/);
    assert.match(whole ?? '', /the stream as a whole differs/);
    assert.deepEqual(more, []);
    assert.equal((jsonIn(ended).faults as unknown[]).length, 3);
  });

  test('says that it is another stream, or longer', async () => {
    await using dir = makeTempDir();
    const manifest = await manifestOf(dir, put(dir, 'vm.mig', workedExample()));
    const longer = Buffer.concat([workedExample(), Buffer.alloc(16)]);
    const ended = await run(['verify', '-', '--manifest', manifest], longer);
    assertSays(ended, 1, /the stream has 4680 bytes; the manifest lists 4664/);
    const [other = ''] = putRecording(dir, 'xbzrle');
    assertSays(await run(['verify', other, '--manifest', manifest]), 1, /section|manifest/);
  });

  test('of multifd holds with the channels in any order', async () => {
    await using dir = makeTempDir();
    const [path = '', first = '', second = ''] = putRecording(dir, 'multifd-zlib');
    const manifest = await manifestOf(dir, path, '--channel', first, '--channel', second);
    const swapped = ['--channel', second, '--channel', first];
    const { code, stderr } = await run(['verify', path, '--manifest', manifest, ...swapped]);
    assert.equal(code, 0, stderr);
  });
});

/** A dump of a target that has the worked example's device. */
function dumpOf(size: number, version = 1): string {
  const field = (name: string, bytes: number, more: object = {}) => {
    return { field: name, version_id: 0, field_exists: false, size: bytes, ...more };
  };
  const demo = {
    name: 'demo',
    version_id: version,
    minimum_version_id: version,
    Fields: [field('a', size), field('arr', 2)],
    Subsections: [
      {
        name: 'demo/extra',
        version_id: 1,
        minimum_version_id: 1,
        Fields: [field('flag', 1)],
      },
    ],
  };
  return JSON.stringify({
    vmschkmachine: { Name: 'pc-i440fx-7.2' },
    demo: { Name: 'demo', version_id: version, minimum_version_id: version, Description: demo },
  });
}

describe('verify --target', { concurrency }, () => {
  test('says whether a QEMU would load the stream, by its dump', async () => {
    await using dir = makeTempDir();
    const fits = put(dir, 'fits.json', dumpOf(4));
    const ended = await run(['verify', '-', '--target', fits, '--json'], workedExample());
    assert.equal(ended.code, 0, ended.stderr);
    const { ok, target } = jsonIn(ended) as { ok: boolean; target: { accepts: boolean } };
    assert.deepEqual([ok, target.accepts], [true, true]);

    const newer = put(dir, 'newer.json', dumpOf(4, 3));
    const refused = await run(['verify', '-', '--target', newer], workedExample());
    assertSays(refused, 1, /newer\.json would not load this stream: section "demo".*version/);
    assert.equal(refused.stdout.length, 0);
    const object = jsonIn(await run(['verify', '-', '--target', newer, '--json'], workedExample()));
    assert.deepEqual([object.ok, object.faults], [false, []]);
  });

  test('accepts streams of QEMU 7.2 for QEMU 7.2', async (t) => {
    const [packed, stream] = [corpus('dump-vmstate-7.2.json.gz'), corpus('pc-linux.mig.gz')];
    if (packed === undefined || stream === undefined) return t.skip('there is no corpus');
    await using dir = makeTempDir();
    const dump = put(dir, 'dump.json', gunzipSync(fs.readFileSync(packed)));
    const { code, stdout, stderr } = await run(['verify', stream, '--target', dump]);
    assert.equal(code, 0, stderr);
    assert.match(stdout.toString(), /dump\.json would load this stream/);
  });
});

describe('exit code of verify', { concurrency }, () => {
  test('1: a stream that is cut off', async () => {
    const ended = await run(['verify', '-'], workedExample().subarray(0, 4000));
    assertSays(ended, 1, /ENODATA: in section "ram": .*at byte/);
  });

  test('2: an invalid manifest or dump, before the stream is read', async () => {
    await using dir = makeTempDir();
    const [text, object] = [put(dir, 'text', 'no JSON'), put(dir, 'object', '{}')];
    const path = put(dir, 'vm.mig', workedExample());
    for (const option of ['--manifest', '--target']) {
      for (const file of [text, object, dir.join('missing')]) {
        const ended = await run(['verify', path, option, file]);
        assertSays(ended, 2, new RegExp(`^qemu-file: ${option}`));
        assert.equal(ended.stdout.length, 0);
      }
    }
  });

  test('3: no stream, and nothing at all', async () => {
    assertSays(await run(['verify', '-'], 'x'.repeat(100)), 3, /not a migration stream/);
    const empty = await run(['verify', '-', '--json'], '');
    assertSays(empty, 3, /empty/);
  });

  test('4: a file that is not there', async () => {
    await using dir = makeTempDir();
    assertSays(await run(['verify', dir.join('no')]), 4, /ENOENT/);
  });

  test('130: interrupted', async () => {
    await using dir = makeTempDir();
    const command = new Command(['verify', `unix:${dir.join('s')}`]);
    await command.listening();
    command.child.kill('SIGINT');
    assertSays(await command.ended(), 130, /interrupted by SIGINT/);
  });
});
