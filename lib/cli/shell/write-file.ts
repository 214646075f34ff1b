import { openTo } from '../../../adapters/open.ts';

/** Write text or bytes to a file with mode 0600, which appears complete or not at all. */
export async function writeWholeFile(path: string, text: string | Uint8Array): Promise<void> {
  const to = await openTo({ scheme: 'file', path, offset: 0 });
  to.write(text);
  await to.close();
}
