import assert from 'node:assert/strict';
import fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type CommandLine, outputMistake } from '../../../lib/cli/shell/output-paths.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';

const { path: directory } = makeTempDir();
const stream = join(directory, 'vm.mig');
const hardLink = join(directory, 'hard.mig');
const symbolicLink = join(directory, 'symbolic.mig');
const absent = join(directory, 'absent');
fs.writeFileSync(stream, 'QEVM');
fs.linkSync(stream, hardLink);
fs.symlinkSync(stream, symbolicLink);

function mistake(
  command: string,
  args: CommandLine['args'],
  flags: CommandLine['flags'] = {},
): string | null {
  return outputMistake({ command, args, flags });
}

test('an output that is the file that is read is refused, by whatever name', () => {
  for (const name of ['raw', 'elf', 'flat', 'html', 'manifest', 'tee', 'record']) {
    for (const path of [stream, hardLink, symbolicLink, join(directory, '.', 'vm.mig')]) {
      assert.equal(
        mistake('extract', { from: stream }, { [name]: path }),
        `--${name} ${path} is the file that is read: give another one`,
      );
    }
  }
  assert.match(
    String(mistake('relay', { from: stream, to: hardLink })),
    /is the file that is read/,
  );
  assert.match(
    String(mistake('relay', { from: `file:${stream}`, to: `file:${stream},offset=4096` })),
    /is the file that is read/,
  );
  assert.match(String(mistake('diff', { a: absent, b: stream }, { html: stream })), /--html/);
  assert.match(
    String(mistake('inspect', { from: '-' }, { channel: [stream], html: stream })),
    /--html/,
  );
});

test('two outputs must not be one file, whether it exists or not', () => {
  assert.equal(
    mistake('save', { to: absent }, { manifest: absent }),
    `${absent} and --manifest ${absent} are one file: give another one`,
  );
  assert.match(
    String(mistake('extract', { from: '-' }, { raw: stream, elf: hardLink })),
    /--raw .* and --elf .* are one file/,
  );
});

test('the name "-" of an output file is refused: it does not mean standard output', () => {
  assert.equal(
    mistake('extract', { from: stream }, { raw: '-' }),
    '--raw needs the path of a file; write ./- for a file named "-"',
  );
});

test('devices, other files, endpoints that are not files, and what is read are accepted', () => {
  assert.equal(mistake('inspect', { from: '/dev/null' }, { html: '/dev/null' }), null);
  assert.equal(mistake('inspect', { from: stream }, { html: absent }), null);
  assert.equal(mistake('relay', { from: '-', to: '-' }), null);
  assert.equal(mistake('relay', { from: 'store:vm#a', to: 'nosuch:x' }), null);
  assert.equal(mistake('verify', { from: stream }, { manifest: stream }), null);
  assert.equal(mistake('template', { from: stream, dir: stream }), null);
});

test('the command refuses to replace the stream that it reads', async () => {
  const { code, stderr } = await run(['inspect', stream, '--html', symbolicLink]);
  assert.equal(code, 2);
  assert.equal(
    stderr,
    `qemu-file: --html ${symbolicLink} is the file that is read: give another one\n`,
  );
  assert.equal(fs.readFileSync(stream, 'utf8'), 'QEVM');
});

test('an empty directory name is refused', () => {
  assert.equal(mistake('template', { from: '-', dir: '' }), '<dir> must not be empty');
});
