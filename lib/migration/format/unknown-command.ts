import { MigrationStreamError } from './stream-error.ts';

/** Return the error of a command that QEMU does not know, from byte `offset` of the stream. */
export function unknownCommand(number: number, offset: number): MigrationStreamError {
  const reason = `command ${number} is unknown; QEMU stops loading at it`;
  return new MigrationStreamError('unsupported', reason, { position: offset + 1 });
}
