import { UsageError } from '../shell/command-errors.ts';
import { printStderr } from '../shell/stdio.ts';
import { type Endpoint, parseEndpoint } from './endpoint.ts';
import { reportUnusable } from './report-unusable.ts';
import { readTls, type TlsEnds, type TlsFlags } from './tls/credentials.ts';

/** The endpoints of a command that reads a stream and writes one. */
export interface Ends {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /** How the endpoints speak TLS. */
  readonly tls: TlsEnds;
}

/**
 * Parse the endpoints of a command, and read the files that its TLS options name. Print the reason if they cannot be
 * used.
 *
 * @param texts - The endpoint to read from and the endpoint to write to, as typed.
 * @param refuse - Returns why the command's options do not fit the endpoints; undefined if they do.
 * @returns The endpoints, or the exit code once the reason is printed.
 */
export async function readEnds(
  [fromText, toText]: readonly [string, string],
  flags: TlsFlags,
  refuse: (ends: Pick<Ends, 'from' | 'to'>) => string | undefined,
): Promise<Ends | number> {
  try {
    const from = parseEndpoint(fromText);
    const to = parseEndpoint(toText);
    const refusal = refuse({ from, to });
    if (refusal !== undefined) throw new UsageError(refusal);
    const tls = await readTls(flags, { from, to }, (text) => void printStderr(text));
    return { from, to, tls };
  } catch (error) {
    return reportUnusable(error);
  }
}
