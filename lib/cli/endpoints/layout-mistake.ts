import type { StreamLayout } from '../../migration/guest-writer/guest-writer.ts';
import { parseEndpoint } from './endpoint.ts';

/**
 * Return why a stream of a layout cannot be written; undefined if it can.
 *
 * @param toText - The endpoint, as typed.
 * @param others - Values of the options that mapped-ram excludes, by option.
 * @throws {QemuFileError} `EINVAL` as `parseEndpoint`.
 */
export function layoutMistake(
  toText: string,
  layout: StreamLayout | undefined,
  others: Readonly<Record<string, unknown>>,
): string | undefined {
  if (layout !== 'mapped-ram') return undefined;
  const [other] = Object.entries(others).find(([, value]) => value !== undefined) ?? [];
  if (other !== undefined) {
    return `--layout mapped-ram and ${other} exclude each other: remove one of them`;
  }
  if (parseEndpoint(toText).scheme === 'file') return undefined;
  return '--layout mapped-ram needs a file to write to, which can seek';
}
