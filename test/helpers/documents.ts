import { readdirSync, readFileSync } from 'node:fs';
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

/** JavaScript of a document, or of an `@example` in the sources. */
export interface Example {
  /** Path of the file and line of the code, such as `README.md:120`. */
  readonly place: string;
  readonly code: string;
}

/** Return the text of a document. */
export function readDocument(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

/** Return the JavaScript examples of all documents. */
export function readExamples(): Example[] {
  return DOCUMENTS.flatMap((path) => examplesIn(path, /^```js\n([\s\S]*?)^```/gm));
}

/** Return the code of each `@example` in the sources. */
export function readDocComments(): Example[] {
  return ['lib', 'adapters'].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .flatMap((name) =>
        examplesIn(join(folder, name), /@example\n *\* ```js\n([\s\S]*?) *\* ```/g),
      )
      .map(({ place, code }) => ({ place, code: code.replace(/^ *\* ?/gm, '') })),
  );
}

function examplesIn(path: string, pattern: RegExp): Example[] {
  const text = readDocument(path);
  return [...text.matchAll(pattern)].map((match) => ({
    place: `${path}:${text.slice(0, match.index).split('\n').length + 1}`,
    code: match[1] ?? '',
  }));
}
