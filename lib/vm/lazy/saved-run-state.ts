import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';

/** Run states in which a guest was saved that was not stopped. */
const RUNNING: ReadonlySet<string> = new Set(['running', 'suspended', '']);

const SIZE_BYTES = 4;

/**
 * Return whether a guest ran when it was saved; `unknown` if its stream does not say.
 *
 * @see QEMU `vmstate_globalstate` in migration/global_state.c
 */
export function savedRunState({ sections }: SavedGuest): 'running' | 'stopped' | 'unknown' {
  const body = sections.find(({ name, kind }) => name === 'globalstate' && kind === 'full')?.body;
  if (body === undefined || body.length <= SIZE_BYTES) return 'unknown';
  const text = Buffer.from(body.buffer, body.byteOffset + SIZE_BYTES, body.length - SIZE_BYTES);
  const end = text.indexOf(0);
  return RUNNING.has(text.toString('latin1', 0, end < 0 ? text.length : end))
    ? 'running'
    : 'stopped';
}
