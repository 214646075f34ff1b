import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { PageCode } from './bundle-page.ts';

/** Names of the files that the build writes beside this module. */
export const PAGE_FILES = { script: 'page.js', style: 'page.css' } as const;

/**
 * Load the code of a report's page: the bundle that the build has written, or a new bundle where the command
 * runs from its sources.
 */
export async function loadPageCode(): Promise<PageCode> {
  try {
    const [script, style] = await Promise.all([
      readBuilt(PAGE_FILES.script),
      readBuilt(PAGE_FILES.style),
    ]);
    return { script, style };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const { bundlePage } = await import('./bundle-page.ts');
    return bundlePage();
  }
}

function readBuilt(name: string): Promise<string> {
  return readFile(fileURLToPath(new URL(name, import.meta.url)), 'utf8');
}
