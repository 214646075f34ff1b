/*
 * Comparison of decoded device state with the output of QEMU's analyze-migration.py.
 *
 * That prints integers as hexadecimal digits of their full width, with the decimal value behind where it
 * takes one for signed and negative: `0xffffffff (-1)`. It does not know of all types whether they are
 * signed, and prints those it does not know at all, timers among them, as bytes: `ff ff`. So integers are
 * compared by their bits: by value modulo 2^width.
 */

const INTEGER = /^0x([0-9a-f]+)(?: \(-\d+\))?$/;
const BYTES = /^(?:[0-9a-f]{2}(?: [0-9a-f]{2})*)?$/;

/**
 * Return the differences of a state from an oracle, each with its path.
 *
 * @param ours - Result of `stateToJson`.
 * @param oracle - Value of `NAME (id)` in the analyser's output.
 */
export function compareState(ours: unknown, oracle: unknown): string[] {
  const differences: string[] = [];
  compare(ours, oracle, '', differences);
  return differences;
}

function compare(ours: unknown, oracle: unknown, path: string, differences: string[]): void {
  if (Array.isArray(ours) && Array.isArray(oracle)) {
    for (let at = 0; at < Math.max(ours.length, oracle.length); at++) {
      compare(ours[at], oracle[at], `${path}[${at}]`, differences);
    }
  } else if (isRecord(ours) && isRecord(oracle)) {
    for (const name of new Set([...Object.keys(ours), ...Object.keys(oracle)])) {
      compare(ours[name], oracle[name], path === '' ? name : `${path}.${name}`, differences);
    }
  } else if (!isSame(ours, oracle)) {
    differences.push(`${path}: ${JSON.stringify(ours)}, not ${JSON.stringify(oracle)}`);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSame(ours: unknown, oracle: unknown): boolean {
  if (typeof oracle !== 'string') return ours === oracle;
  const digits = INTEGER.exec(oracle)?.[1];
  if (digits !== undefined) return isInteger(ours) && hasBits(BigInt(ours), digits);
  if (!BYTES.test(oracle)) return false;
  const bytes = oracle.replaceAll(' ', '');
  if (typeof ours === 'string' && ours === bytes) return true;
  return bytes !== '' && isInteger(ours) && hasBits(BigInt(ours), bytes);
}

function isInteger(value: unknown): value is number | string {
  return typeof value === 'string' ? /^-?\d{16,}$/.test(value) : Number.isSafeInteger(value);
}

function hasBits(value: bigint, digits: string): boolean {
  const width = digits.length * 4;
  const fits = value >= -(1n << BigInt(width - 1)) && value < 1n << BigInt(width);
  return fits && BigInt.asUintN(width, value) === BigInt(`0x${digits}`);
}
