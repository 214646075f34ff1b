import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Report, reportData } from './data.ts';
import { PAGE_FUNCTIONS, pageMain } from './page/main.ts';
import { REPORT_STYLE } from './style.ts';

export type { Report } from './data.ts';

/** Reads a file of the package that draws the charts. */
function uplotFile(path: string): Promise<string> {
  return readFile(fileURLToPath(import.meta.resolve(`uplot/${path}`)), 'utf8');
}

/**
 * Makes a report about a stream: one page of HTML that needs nothing else and asks for nothing from outside.
 *
 * All text of the stream is data in it, never markup: it gets into the page as JSON, and is shown as text. A
 * policy in the page allows the scripts and styles that are put in here, by their digests, and nothing else.
 *
 * @param report - What it is about; of what is too much for a page, it says how much is left out.
 * @throws {Error} (rejects) if the package `uplot` is not installed as it should be.
 */
export async function reportHtml(report: Report): Promise<string> {
  const [chart, chartStyle, licence] = await Promise.all([
    uplotFile('dist/uPlot.iife.min.js'),
    uplotFile('dist/uPlot.min.css'),
    uplotFile('LICENSE'),
  ]);
  const scripts = [`/*\n${licence.trim()}\n*/\n${chart}`, pageScript()];
  const style = `${chartStyle}\n${REPORT_STYLE}`;
  const policy = [
    "default-src 'none'",
    `script-src ${scripts.map(digestSource).join(' ')}`,
    `style-src ${digestSource(style)}`,
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${escapeHtml(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${escapeHtml(report.title)} – migration stream</title>
${inline('style', style)}
</head>
<body>
<main id="main"><noscript><p>This report shows itself with JavaScript, which is switched off.</p></noscript></main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="report">${embeddedJson(reportData(report))}</script>
${scripts.map((script) => inline('script', script)).join('\n')}
</body>
</html>
`;
}

/** The script of a page. */
export function pageScript(): string {
  const functions = PAGE_FUNCTIONS.map((part) => part.toString()).join('\n');
  return `(() => {
'use strict';
// Some loaders of TypeScript put calls of this into functions.
const __name = (named) => named;
${functions}
${pageMain.name}();
})();`;
}

function digestSource(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}

/** Code of ours as an element. It cannot be escaped, so it must not need to be. */
function inline(tag: 'script' | 'style', code: string): string {
  if (/<\/(?:script|style)|<!--/i.test(code)) throw new Error(`the ${tag} would end too early`);
  return `<${tag}>${code}</${tag}>`;
}

/** JSON that contains nothing with which the element around it, or a line, could end. */
function embeddedJson(data: unknown): string {
  return JSON.stringify(data).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
