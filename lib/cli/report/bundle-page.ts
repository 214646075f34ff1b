import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

/*
 * Part of the build, and of a run from the sources. The published package has no esbuild: it has the bundle.
 */

/** The code of a report's page. */
export interface PageCode {
  /** A classic script, with everything that it imports. */
  readonly script: string;
  readonly style: string;
}

/** Browsers of the last years: the page uses no syntax that is newer. */
const TARGET = 'es2022';

function pathOf(specifier: string): string {
  return fileURLToPath(new URL(specifier, import.meta.url));
}

/** Bundle the script and the style of a report's page, each with what it imports, uPlot included. */
export async function bundlePage(): Promise<PageCode> {
  const licence = await readFile(fileURLToPath(import.meta.resolve('uplot/LICENSE')), 'utf8');
  const { outputFiles } = await build({
    entryPoints: [pathOf('page/main.ts'), pathOf('page/style/page.css')],
    outdir: pathOf('page'),
    bundle: true,
    write: false,
    minify: true,
    format: 'iife',
    target: TARGET,
    charset: 'utf8',
    legalComments: 'none',
    banner: { js: `/*\n${licence.trim()}\n*/` },
    logLevel: 'silent',
    tsconfig: pathOf('page/tsconfig.json'),
  });
  const textOf = (extension: string): string => {
    const file = outputFiles.find(({ path }) => path.endsWith(extension));
    if (file === undefined) throw new Error(`the bundle has no ${extension} file`);
    return file.text.trimEnd();
  };
  return { script: textOf('.js'), style: textOf('.css') };
}
