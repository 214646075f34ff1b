import type { Duplex } from 'node:stream';
import { Duplex as ReadableStreamDuplex } from 'readable-stream';

/**
 * The class that `QemuFile` extends: readable-stream's `Duplex`, typed as Node's own, so that the package's
 * declarations need nothing but `@types/node`. Node's `pipeline`, `finished`, `compose` and `toWeb`
 * accept it. `instanceof` Node's `Duplex` is false, as for every stream of readable-stream.
 */
export const StreamBase: typeof Duplex = ReadableStreamDuplex as unknown as typeof Duplex;
