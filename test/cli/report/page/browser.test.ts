// The page of a report in a real browser, where there is one.
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { diffHtml, reportHtml } from '../../../../lib/cli/report/html.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { diffReportOf, hostileDiffReport } from '../../../helpers/command/diff-samples.ts';
import {
  HOSTILE,
  hostileReport,
  recordedReport,
  reportOf,
} from '../../../helpers/command/report-samples.ts';

const run = promisify(execFile);
const browser = ['chromium', 'chromium-browser', 'google-chrome'].find(
  (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
);
const skip = browser === undefined && 'there is no Chromium';

/** Open a page and return its document after the scripts ran. */
async function open(html: string): Promise<string> {
  await using folder = makeTempDir();
  const path = folder.join('report.html');
  writeFileSync(path, html);
  const { stdout } = await run(
    browser as string,
    [
      ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
      ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
      ...[`--user-data-dir=${folder.join('profile')}`, '--virtual-time-budget=5000'],
      ...['--window-size=1280,1000', '--dump-dom', pathToFileURL(path).href],
    ],
    { maxBuffer: 2 ** 28, timeout: 300_000 },
  );
  return stdout;
}

/**
 * Opens a page in which a script does what a person would, and gives what it found out.
 *
 * @param script - The body of an async function; `wait` lets some time of the page go by.
 */
async function drive(html: string, script: string): Promise<unknown> {
  const code = `setTimeout(async () => {
    const wait = () => new Promise((resolve) => setTimeout(resolve, 300));
    const all = (what) => [...document.querySelectorAll(what)];
    const find = async (text) => {
      const query = document.getElementById('query');
      query.value = text;
      query.dispatchEvent(new Event('input'));
      await wait();
      return all('.device').map((device) => [
        device.querySelector('.key').textContent,
        ...[...device.querySelectorAll('.hits > * ')].map((hit) => hit.textContent),
      ]);
    };
    try {
      document.documentElement.dataset.found = JSON.stringify(await (async () => {${script}})());
    } catch (error) {
      document.documentElement.dataset.error = String(error);
    }
  }, 100)`;
  const digest = createHash('sha256').update(code).digest('base64');
  const driven = html
    .replace('script-src ', `script-src &#39;sha256-${digest}&#39; `)
    .replace('</body>', () => `<script>${code}</script></body>`);
  const { found } = soundRoot(await open(driven));
  return JSON.parse(found as string);
}

function unescapeHtml(text: string): string {
  const chars = new Map([
    ['quot', '"'],
    ['lt', '<'],
    ['gt', '>'],
    ['amp', '&'],
  ]);
  return text.replace(/&(quot|lt|gt|amp);/g, (_, name: string) => chars.get(name) as string);
}

/** Return the verdict on the page's root element; it must be success. */
function soundRoot(dom: string): Record<string, string> {
  const tag = /<html[^>]*>/.exec(dom)?.[0] ?? '';
  const root = Object.fromEntries(
    [...tag.matchAll(/data-(\w+)="([^"]*)"/g)].map(([, name, value]) => [
      name,
      unescapeHtml(value as string),
    ]),
  ) as Record<string, string>;
  assert.equal(root.error, undefined);
  assert.equal(root.ready, 'yes');
  return root;
}

describe("a report's page in a browser", { skip }, () => {
  test('shows all parts of a recorded stream', async () => {
    const report = await recordedReport('microvm');
    const dom = await open(await reportHtml(report));
    soundRoot(dom);
    assert.deepEqual(
      [...dom.matchAll(/<section id="(\w+)"/g)].map(([, id]) => id),
      ['memory', 'rounds', 'sections', 'timeline', 'devices'],
    );
    const drawn = [...dom.matchAll(/data-drawn="(\d+)"/g)].map(([, cells]) => Number(cells));
    assert.deepEqual(
      drawn,
      report.maps.map(({ cells }) => cells.length),
    );
    assert.match(dom, /class="uplot/);
  });

  test('runs no code from a stream', async () => {
    const dom = await open(await reportHtml(hostileReport()));
    const root = soundRoot(dom);
    assert.equal(root.owned, undefined);
    assert.doesNotMatch(dom, /<img/);
    assert.ok(dom.includes('<h1>&lt;/script&gt;&lt;img'), 'it is shown as it is');
    assert.ok(dom.includes('\\u{2028}\\u{202e}\\u{0}'), 'what cannot be seen is written out');
  });

  test('runs no code from a stream when everything is opened', async () => {
    const found = await drive(
      await reportHtml(hostileReport()),
      `all('button').forEach((button) => button.click());
      for (let level = 0; level < 5; level++) {
        all('details').forEach((details) => { details.open = true; });
        await wait();
      }
      return {
        keys: all('.key').map((key) => key.textContent),
        images: all('img').length,
        owned: document.documentElement.dataset.owned ?? null,
      };`,
    );
    assert.deepEqual(found, {
      ...{ images: 0, owned: null },
      keys: [
        HOSTILE,
        '__proto__',
        'constructor',
        'toString',
        HOSTILE,
        '__proto__',
        'raw',
        '-->',
      ].concat(['state', '<!--<script>', 'state']),
    });
  });

  test('draws each kind of page in its colour', async () => {
    const cell = { bytes: 4096, zero: 0, data: 0, resent: 0, absent: 0 };
    const cells = [
      { ...cell, offset: 0, data: 1 },
      { ...cell, offset: 4096, zero: 1 },
      { ...cell, offset: 8192, data: 1, resent: 1 },
      { ...cell, offset: 12_288, absent: 1 },
    ];
    const html = await reportHtml(reportOf({}, [{ name: 'pc.ram', usedLength: 16_384, cells }]));
    const found = await drive(
      html,
      `const [canvas] = all('canvas');
      const pitch = canvas.getBoundingClientRect().height * devicePixelRatio;
      const style = getComputedStyle(document.documentElement);
      return [0, 1, 2, 3].map((at) => {
        const pixel = canvas.getContext('2d').getImageData((at + 0.4) * pitch, 0.4 * pitch, 1, 1).data;
        const hex = '#' + [...pixel.slice(0, 3)].map((n) => n.toString(16).padStart(2, '0')).join('');
        return ['data', 'zero', 'resent', 'absent'].find((name) => style.getPropertyValue('--' + name) === hex);
      });`,
    );
    assert.deepEqual(found, ['data', 'zero', 'resent', 'absent']);
  });

  test('describes a cell of a map for the pointer and for the keyboard', async () => {
    const cells = [0, 1, 2].map((at) => ({
      ...{ offset: 8192 * at, bytes: 8192, zero: at === 0 ? 2 : 0, data: at === 0 ? 0 : 1 },
      ...{ resent: 0, absent: at === 0 ? 0 : 1 },
    }));
    const html = await reportHtml(reportOf({}, [{ name: 'ram', usedLength: 20_480, cells }]));
    const found = await drive(
      html,
      `const [canvas] = all('canvas');
      const tip = document.getElementById('tip');
      const said = [tip.hidden];
      const { left, top } = canvas.getBoundingClientRect();
      canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: left + 2, clientY: top + 2 }));
      said.push([...tip.children].map((line) => line.textContent));
      canvas.dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }));
      said.push([...tip.children].map((line) => line.textContent));
      canvas.dispatchEvent(new Event('pointerleave'));
      said.push(tip.hidden);
      return said;`,
    );
    assert.deepEqual(found, [
      true,
      ['0x0 – 0x1fff', 'data 0 · zeros 2 · sent again 0 · never sent 0'],
      ['0x4000 – 0x4fff', 'data 1 · zeros 0 · sent again 0 · never sent 1'],
      true,
    ]);
  });

  test('finds devices by name, fields by name, and values by number or bytes', async () => {
    const devices = {
      apic: { id: 31, icr: [0, 7, '18446744073709551615'], enabled: true },
      serial: { divider: 7, fifo: `00deadbeef${'00'.repeat(20)}`, irq: { level: -1 } },
    };
    const found = await drive(
      await reportHtml(reportOf({ devices })),
      `const found = {};
      for (const text of ['', 'APIC', 'irq', '7', '0x1f', '0xffffffffffffffff', '-1', 'de ad be', '0xadbe', 'true', 'none such']) {
        found[text] = await find(text);
      }
      return found;`,
    );
    const fifo = 'fifo25 bytes: 00 de ad be ef 00 00 00 …';
    assert.deepEqual(found, {
      '': [['apic'], ['serial']],
      APIC: [['apic']],
      irq: [['serial', 'irq1 field']],
      '7': [
        ['apic', 'icr[1]70x7'],
        ['serial', 'divider70x7'],
      ],
      '0x1f': [['apic', 'id310x1f']],
      '0xffffffffffffffff': [['apic', 'icr[2]184467440737095516150xffffffffffffffff']],
      '-1': [['serial', 'irq.level-1-0x1']],
      'de ad be': [['serial', fifo]],
      '0xadbe': [['serial', fifo]],
      true: [['apic', 'enabledtrue']],
      'none such': [],
    });
  });

  test('shows a dump of bytes when they are opened, with the zeros after it as a number', async () => {
    const devices = { rom: { data: `4869210a${'00'.repeat(13)}ff${'00'.repeat(100)}` } };
    const found = await drive(
      await reportHtml(reportOf({ devices })),
      `const before = all('pre').length;
      for (let level = 0; level < 2; level++) {
        all('details').forEach((details) => { details.open = true; });
        await wait();
      }
      return [before, all('pre')[0].textContent.split('\\n'), all('.inside .inside > p')[0].textContent];`,
    );
    assert.deepEqual(found, [
      0,
      [
        '0000  48 69 21 0a 00 00 00 00 00 00 00 00 00 00 00 00  Hi!.............',
        '0010  00 ff 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................',
      ],
      'Zeros up to byte 118.',
    ]);
  });

  test('sorts sections by the chosen column, and opens their pieces', async () => {
    const report = await recordedReport('microvm');
    const found = (await drive(
      await reportHtml(report),
      `const names = () => all('.sections .name').map((cell) => cell.textContent);
      const bySize = names();
      all('.sections th button')[1].click();
      const byName = names();
      all('.sections th button')[1].click();
      const backwards = names();
      all('.sections .opens')[0].click();
      return { bySize, byName, backwards, pieces: all('.opened tbody tr').length };`,
    )) as { bySize: string[]; byName: string[]; backwards: string[]; pieces: number };
    assert.equal(found.bySize[0], 'ram');
    assert.deepEqual(found.byName, [...found.bySize].sort());
    assert.deepEqual(new Set(found.backwards), new Set(found.byName));
    assert.equal(found.backwards[0], found.byName.at(-1));
    const pieces = report.summary.sections.filter(({ name }) => name === 'ram').length;
    assert.equal(found.pieces, pieces);
  });

  test('builds only the visible part of a large state', async () => {
    const state = Object.fromEntries(
      Array.from({ length: 40 }, (_, at) => [`field-${at}`, Array.from({ length: 50 }, () => at)]),
    );
    const devices = Object.fromEntries(
      Array.from({ length: 300 }, (_, at) => [
        `device-${at}`,
        { ...state, buffer: 'a5'.repeat(2000) },
      ]),
    );
    const found = (await drive(
      await reportHtml(reportOf({ devices })),
      `const before = all('*').length;
      const [hit] = await find('device-299');
      const field = await find('field-7');
      return { before, hit, devices: field.length, after: all('*').length };`,
    )) as { before: number; hit: string[]; devices: number; after: number };
    assert.ok(found.before < 2000, `${found.before} elements`);
    assert.deepEqual(found.hit, ['device-299']);
    assert.equal(found.devices, 50);
    assert.ok(found.after < 2000, `${found.after} elements`);
  });
});

describe('the page about two guests in a browser', { skip }, () => {
  test('shows maps side by side with the pages that differ, and finds fields', async () => {
    const found = await drive(
      await diffHtml(diffReportOf()),
      `const style = getComputedStyle(document.documentElement);
      const colours = all('canvas').map((canvas) => {
        const pitch = canvas.getBoundingClientRect().height * devicePixelRatio;
        return [0, 1, 2, 3].map((at) => {
          const pixel = canvas.getContext('2d').getImageData((at + 0.4) * pitch, 0.4 * pitch, 1, 1).data;
          const hex = '#' + [...pixel.slice(0, 3)].map((n) => n.toString(16).padStart(2, '0')).join('');
          return ['data', 'zero', 'resent', 'absent'].find((name) => style.getPropertyValue('--' + name) === hex);
        });
      });
      const fields = async (text) => {
        await find(text);
        return all('.devices .difference').map((row) => row.textContent);
      };
      return {
        parts: all('section').map(({ id }) => id),
        colours,
        devices: (await find('')).map(([name]) => name),
        notes: all('.device h3').map((head) => head.textContent),
        ticks: await fields('tick'),
        byValue: await fields('0xffffffffffffffff'),
        none: await fields('none such'),
      };`,
    );
    const ticks = 'ticks7 0x718446744073709551615 0xffffffffffffffff';
    assert.deepEqual(found, {
      parts: ['configuration', 'memory', 'devices'],
      colours: [
        ['data', 'resent', 'zero', 'data'],
        ['data', 'resent', 'zero', 'absent'],
      ],
      devices: ['timer', 'nic/2', 'gone'],
      notes: ['timer', 'nic/2 version 1 → 2', 'gone only in A'],
      ticks: [ticks],
      byValue: [ticks],
      none: [],
    });
  });

  test('runs no code from the streams', async () => {
    const dom = await open(await diffHtml(hostileDiffReport()));
    assert.equal(soundRoot(dom).owned, undefined);
    assert.doesNotMatch(dom, /<img/);
    assert.ok(dom.includes('&lt;/script&gt;&lt;img'), 'it is shown as it is');
  });
});
