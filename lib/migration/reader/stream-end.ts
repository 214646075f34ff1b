import { isSameText } from '../devices/find-vm-description.ts';
import { parseVmDescription } from '../devices/vm-description.ts';
import type { VmDescription } from '../format/device-types.ts';
import type { MigrationEvent } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { deviceEvent, type SectionReader } from './section-reader.ts';
import type { StreamState } from './stream-state.ts';

const HEADER_BYTES = 5;

/**
 * Read what comes after the end mark: the VM description, and bytes that do not belong to the stream.
 *
 * @param goesOn - Whether the source may send more, which must not be waited for.
 */
export async function* readEnd(
  input: StreamInput,
  state: StreamState,
  sections: SectionReader,
  goesOn: boolean,
): AsyncGenerator<MigrationEvent, void> {
  input.section = undefined;
  const end = input.position;
  if (state.sections.isOpen) {
    if (state.isPostcopy || !state.sections.isSnapshot) {
      throw input.error(
        'corrupt',
        'the end mark came before the SECTION_END of every section',
        end - 1,
      );
    }
    state.diagnostics.warn('no section has a SECTION_END: this is a background snapshot', end - 1);
  }
  if (state.unknownSection !== null && state.ram.blocks.length === 0) {
    const reason = `section ${state.unknownSection} has an unknown layout, and there is no section "ram"`;
    state.diagnostics.report(input.error('unsupported', reason, end - 1));
  }
  const described = state.found?.offset ?? end;
  if (described !== end) {
    const reason = `the end mark is ${described - end} bytes before the VM description`;
    throw input.error('corrupt', reason, end - 1);
  }
  if (!(await input.atEnd()) && input.file.peekByte(0) === ITEM.VM_DESCRIPTION) {
    yield* readDescription(input, state);
  }
  for (const device of state.devices.takeUndecoded()) yield deviceEvent(device);
  yield* sections.warnScanned(end);
  if (goesOn) return;
  const offset = input.position;
  while (!(await input.atEnd())) await input.skip(input.available, 'the bytes after the stream');
  const bytes = input.position - offset;
  if (bytes > 0) yield { type: 'trailing', offset, bytes };
}

async function* readDescription(
  input: StreamInput,
  state: StreamState,
): AsyncGenerator<MigrationEvent, void> {
  const { ram, devices, diagnostics } = state;
  const offset = input.position;
  await input.need(HEADER_BYTES, 'the VM description');
  input.u8();
  const size = input.be32();
  if (size > LIMIT.DESCRIPTION) {
    const reason = `a VM description of ${size} bytes, more than ${LIMIT.DESCRIPTION}`;
    throw input.error('unsupported', reason, offset + 1);
  }
  const text = await input.bytes(size, 'the VM description');
  let description: VmDescription;
  try {
    description = descriptionIn(text, offset, state);
  } catch (error) {
    if (!(error instanceof MigrationStreamError)) throw error;
    // The device sections themselves are complete.
    diagnostics.report(error);
    return;
  }
  yield { type: 'vmDescription', offset, bytes: HEADER_BYTES + size, description };
  if (!devices.isDescribed) {
    for (const device of await state.describe({ description, offset })) yield deviceEvent(device);
  }
  if (ram.blockTable.isPageSizeKnown && ram.pageSize !== description.page_size) {
    const reason = `the VM description has a page size of ${description.page_size} bytes, but RAM has pages of ${ram.pageSize}`;
    diagnostics.report(input.error('corrupt', reason, offset));
  }
  for (const name of devices.missing()) {
    const reason = `the VM description lists section ${name}, which did not come`;
    diagnostics.report(input.error('corrupt', reason, offset));
  }
}

/** Return the description at an offset: the one that was found there before, or the text parsed. */
function descriptionIn(text: Uint8Array, offset: number, state: StreamState): VmDescription {
  const { found, diagnostics } = state;
  if (!isSameText(found, offset, text)) {
    return parseVmDescription(text, offset + HEADER_BYTES, diagnostics);
  }
  for (const warning of found.warnings ?? []) diagnostics.warn(warning.message, warning.offset);
  return found.description;
}
