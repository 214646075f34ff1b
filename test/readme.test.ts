import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import * as library from '../lib/index.ts';
import { QemuFile } from '../lib/index.ts';
import { run } from './helpers/command/command.ts';
import { DOCUMENTS, ROOT, readDocument } from './helpers/documents.ts';

/** Documents for maintainers: only their links are tested. */
const ROOT_DOCUMENTS = [
  'ARCHITECTURE.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'bench/README.md',
  'test/README.md',
];

const header = readDocument('lib/qemu-file/README.md');

/** Rows of the header table: QEMU's names, and ours. */
function headerTable(): { qemu: string[]; ours: string }[] {
  const section = header.split('\n## ').find((part) => part.startsWith("QEMU's header"));
  assert.ok(section, 'lib/qemu-file/README.md has the section with the header table');
  const rows = [];
  for (const line of section.split('\n')) {
    const [, qemu, ours] = line.split('|').map((cell) => cell.trim());
    if (!qemu?.startsWith('`') || !ours) continue;
    rows.push({
      qemu: [...qemu.matchAll(/`([^`]+)`/g)].map((m) => m[1] as string),
      ours: ours.slice(1, -1),
    });
  }
  return rows;
}

/** The declarations of the header, written out here and not taken from the table. */
const DECLARED = `
  qemu_fopen_ops qemu_fclose qemu_file_mode_is_not_valid qemu_file_is_writable qemu_get_fd
  qemu_file_set_blocking qemu_file_shutdown qemu_file_get_return_path
  QEMUFileOps.get_buffer QEMUFileOps.close QEMUFileOps.set_blocking QEMUFileOps.writev_buffer
  QEMUFileOps.get_return_path QEMUFileOps.shut_down QEMUFileGetFD
  qemu_put_byte qemu_put_sbyte qemu_put_be16 qemu_put_be32 qemu_put_be64 qemu_put_sbe16 qemu_put_sbe32
  qemu_put_sbe64 qemu_put_buffer qemu_put_buffer_async qemu_put_counted_string
  qemu_put_compression_data qemu_put_qemu_file qemu_fflush
  qemu_get_byte qemu_get_ubyte qemu_get_sbyte qemu_get_be16 qemu_get_be32 qemu_get_be64 qemu_get_sbe16
  qemu_get_sbe32 qemu_get_sbe64 qemu_get_buffer qemu_get_buffer_in_place qemu_get_counted_string
  qemu_peek_byte qemu_peek_buffer qemu_file_skip
  qemu_ftell qemu_ftell_fast qemu_update_position
  qemu_file_rate_limit qemu_file_set_rate_limit qemu_file_get_rate_limit qemu_file_reset_rate_limit
  qemu_file_get_error qemu_file_set_error
  qemu_file_set_hooks QEMUFileHooks.before_ram_iterate QEMUFileHooks.after_ram_iterate
  QEMUFileHooks.hook_ram_load QEMUFileHooks.save_page
  ram_control_before_iterate ram_control_after_iterate ram_control_load_hook ram_control_save_page
  RAM_CONTROL_SETUP RAM_CONTROL_ROUND RAM_CONTROL_HOOK RAM_CONTROL_FINISH RAM_CONTROL_BLOCK_REG
  RAM_SAVE_FLAG_HOOK RAM_SAVE_CONTROL_NOT_SUPP RAM_SAVE_CONTROL_DELAYED
  qemu_file_get_error_obj qemu_file_set_error_obj qemu_file_get_error_obj_any qemu_file_transferred
  qemu_set_offset qemu_get_offset qemu_put_buffer_at qemu_get_buffer_at
`
  .trim()
  .split(/\s+/);

/** The text of all tests but this one. */
function testSources(): string {
  const names = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' });
  return names
    .filter((name) => name.endsWith('.ts') && !name.endsWith('readme.test.ts'))
    .map((name) => readFileSync(join(ROOT, 'test', name), 'utf8'))
    .join('\n');
}

describe('the header table', () => {
  const rows = headerTable();

  test('has every declaration of the header', () => {
    const named = new Set(rows.flatMap((row) => row.qemu));
    assert.deepEqual(
      DECLARED.filter((name) => !named.has(name)),
      [],
    );
  });

  const sources = testSources();
  const backend = readFileSync(join(ROOT, 'lib/contract/ops.ts'), 'utf8');
  const hooks = readFileSync(join(ROOT, 'lib/qemu-file/ram-hooks.ts'), 'utf8');

  for (const { qemu, ours } of rows) {
    test(`${qemu.join(', ')} has its counterpart ${ours}, which a test exercises`, () => {
      const name = ours.replace('()', '').replace(/^.*\./, '');
      if (ours === 'new QemuFile(ops)') {
        assert.equal(typeof QemuFile, 'function');
        assert.match(sources, /new QemuFile\(/);
      } else if (ours.startsWith('ops.')) {
        assert.match(backend, new RegExp(`^  ${name}\\??[(:]`, 'm'));
        assert.match(sources, new RegExp(`\\b${name}\\b`));
      } else if (ours.startsWith('hooks.')) {
        assert.match(hooks, new RegExp(`^  ${name}\\?:`, 'm'));
        assert.match(sources, new RegExp(`\\b${name}\\b`));
      } else if (ours.startsWith('QemuFile.')) {
        assert.equal(typeof Reflect.get(QemuFile, name), 'function');
        assert.ok(sources.includes(`QemuFile.${name}(`), `no test calls QemuFile.${name}()`);
      } else if (ours.endsWith('()')) {
        assert.equal(typeof Reflect.get(QemuFile.prototype, name), 'function');
        assert.ok(sources.includes(`.${name}(`), `no test calls .${name}()`);
      } else if (/^[A-Z]/.test(ours)) {
        assert.equal(typeof Reflect.get(library, name), 'number');
        assert.match(sources, new RegExp(`\\b${name}\\b`));
      } else {
        assert.ok(name in QemuFile.prototype);
        assert.match(sources, new RegExp(`\\.${name}\\b`));
      }
    });
  }
});

const COMMANDS = [
  'save',
  'restore',
  'relay',
  'inspect',
  'verify',
  'extract',
  'diff',
  'convert',
  'compact',
  'store',
  'template',
];
const STORE_COMMANDS = ['ls', 'show', 'rm', 'copy', 'gc', 'fsck'];
/** Options of npm's scripts and of Node in the documents. */
const OTHER_OPTIONS = new Set(['--quick', '--minutes', '--import']);
const OPTION = /(?<=[\s`([])--[a-z][a-z-]*(?:=[a-z]+)?/g;

describe('the options of the command', async () => {
  const helps = await Promise.all(
    [
      [],
      ...COMMANDS.map((command) => [command]),
      ...STORE_COMMANDS.map((command) => ['store', command]),
    ].map(async (args) => {
      const { code, stdout } = await run([...args, '--help']);
      assert.equal(code, 0);
      return stdout.toString();
    }),
  );
  const known = new Set(helps.join('\n').match(OPTION));

  test('stand in helps of at most 100 columns with an example each', () => {
    for (const help of helps) {
      assert.match(help, /^Examples?:\n {2}qemu-file /m);
      for (const line of help.split('\n')) assert.ok(line.length <= 100, line);
    }
  });

  for (const path of DOCUMENTS) {
    test(`that ${path} names exist`, () => {
      const named = new Set(readDocument(path).match(OPTION));
      const unknown = [...named].filter((name) => !known.has(name) && !OTHER_OPTIONS.has(name));
      assert.deepEqual(unknown, []);
    });
  }

  test('all stand in lib/cli/README.md', () => {
    const named = new Set(readDocument('lib/cli/README.md').match(OPTION));
    assert.ok(known.size > 30, `${known.size} options`);
    assert.deepEqual(
      [...known].filter((name) => !named.has(name)),
      [],
    );
  });
});

/** Return the anchors of a document's headings, as GitHub makes them. */
function anchorsOf(path: string): Set<string> {
  const text = readDocument(path).replace(/^```[\s\S]*?^```/gm, '');
  const headings = [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading as string);
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replace(/[^\w -]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}

describe('the links of the documents', () => {
  for (const path of [...DOCUMENTS, ...ROOT_DOCUMENTS]) {
    test(`${path} links to files and headings that exist`, () => {
      for (const [, target, anchor] of readDocument(path).matchAll(/\]\(([^)#\s]*)#?([^)]*)\)/g)) {
        if (/^[a-z]+:/.test(target as string)) continue;
        const linked = target ? join(dirname(path), target) : path;
        assert.ok(existsSync(join(ROOT, linked)), `${path}: ${target}`);
        if (anchor) assert.ok(anchorsOf(linked).has(anchor), `${path}: ${target}#${anchor}`);
      }
    });
  }
});
