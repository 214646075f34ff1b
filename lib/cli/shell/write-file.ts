import { openTo } from '../../../adapters/index.ts';

/** Writes a text into a file, mode 0600, which appears whole or not at all. */
export async function writeWholeFile(path: string, text: string): Promise<void> {
  const to = await openTo({ scheme: 'file', path, offset: 0 });
  to.write(text);
  await to.close();
}
