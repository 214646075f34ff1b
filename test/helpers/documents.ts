import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Root folder of the repository. */
export const ROOT: string = fileURLToPath(new URL('../..', import.meta.url));

/** Documents for users, whose links, examples and options are tested. */
export const DOCUMENTS: readonly string[] = [
  'README.md',
  'adapters/README.md',
  'lib/cli/README.md',
  'lib/migration/README.md',
  'lib/qemu-file/README.md',
  'lib/snapshot/README.md',
  'lib/vm/README.md',
];

/** Return the text of a document. */
export function readDocument(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

/** Return the JavaScript examples of all documents. */
export function readExamples(): string[] {
  return DOCUMENTS.flatMap((path) =>
    [...readDocument(path).matchAll(/^```js\n([\s\S]*?)^```/gm)].map(([, code]) => code ?? ''),
  );
}
