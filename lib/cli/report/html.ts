import { createHash } from 'node:crypto';
import { type Report, reportData } from './data.ts';
import { type DiffReport, diffData } from './diff-data.ts';
import { loadPageCode } from './page-code.ts';

export type { Report } from './data.ts';
export type { DiffReport } from './diff-data.ts';

/**
 * Make a report about a stream: one HTML page that needs nothing else and requests nothing from outside.
 *
 * All text of the stream is data in the page, never markup: it enters the page as JSON, and the page shows it
 * as text. A policy in the page allows its own script and style, by their digests, and nothing else.
 *
 * @param report - Contents of the page. Where they are too much for a page, the page shows how much is left out.
 */
export function reportHtml(report: Report): Promise<string> {
  return pageHtml(`${report.title} – migration stream`, reportData(report));
}

/** Make a report about the differences of two guests, as `reportHtml` makes one about a stream. */
export function diffHtml(report: DiffReport): Promise<string> {
  return pageHtml(`${report.a} – ${report.b} – difference`, diffData(report));
}

async function pageHtml(title: string, data: object): Promise<string> {
  const { script, style } = await loadPageCode();
  const policy = [
    "default-src 'none'",
    `script-src ${digestSource(script)}`,
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
<title>${escapeHtml(title)}</title>
${inline('style', style)}
</head>
<body>
<main id="main"><noscript><p>This report needs JavaScript, which is switched off.</p></noscript></main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="report">${embeddedJson(data)}</script>
${inline('script', script)}
</body>
</html>
`;
}

function digestSource(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}

/** Return code of this package as an element. Code cannot be escaped, so it must not contain an end tag. */
function inline(tag: 'script' | 'style', code: string): string {
  if (/<\/(?:script|style)|<!--/i.test(code)) throw new Error(`the ${tag} contains a tag`);
  return `<${tag}>${code}</${tag}>`;
}

/** Return JSON without the characters that could end the element around it, or a line. */
function embeddedJson(data: unknown): string {
  return JSON.stringify(data).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
