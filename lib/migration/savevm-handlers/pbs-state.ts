import type { WarningSink } from '../format/diagnostics.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';
import { BodyCount, type HandlerSummary, readLength } from './body.ts';

/**
 * Skip a body of section `pbs-state`: the backup state of Proxmox VE, a be64 length and as many bytes. It comes
 * whole in the SECTION_START; Proxmox's handler is inactive afterwards and sends no SECTION_END.
 *
 * @see Proxmox's patch "Migrate dirty bitmap state via savevm", migration/pbs-state.c (Proxmox VE 6.3 to 8)
 */
export async function skipPbsState(
  input: StreamInput,
  diagnostics: WarningSink,
): Promise<HandlerSummary> {
  const count = new BodyCount();
  const length = await readLength(input, 'Proxmox backup state', LIMIT.PACKAGE);
  await input.skip(length, 'Proxmox backup state');
  count.add(length);
  const message = `${length} bytes of Proxmox backup state were skipped`;
  diagnostics.warn(message, input.position - length, input.section);
  return count;
}
