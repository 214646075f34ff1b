// The RAM of a QEMU, block by block, out of the memory of its process: what neither a migration stream
// nor QEMU's own ways to save memory had a part in. It needs the right to read /proc/PID/mem.
import assert from 'node:assert/strict';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import type { Qemu } from './harness.ts';

/** A RAM block and its contents. */
export interface RamBlockContents {
  /** As in migration streams. */
  name: string;
  /** Of its used length. */
  bytes: Buffer;
}

/** A line of `info ramblock`. */
interface Listed {
  name: string;
  used: number;
  total: number;
  /** Where it is in the process; QEMU before 8.0 does not say. */
  address: number | undefined;
}

/**
 * Reads RAM blocks; meaningful while the processor is stopped.
 *
 * @param names - The blocks to read. Default: all. QEMU before 8.0 has blocks that are not found.
 * @returns The blocks in the order in which QEMU lists them.
 */
export async function readRamBlocks(
  qemu: Qemu,
  names?: readonly string[],
): Promise<RamBlockContents[]> {
  const blocks: RamBlockContents[] = [];
  await using memory = await open(`/proc/${qemu.pid}/mem`);
  for (const block of parseList(await qemu.qmp.hmp('info ramblock'))) {
    if (names?.includes(block.name) === false) continue;
    const address =
      block.address ?? (await guestAddressed(qemu, block)) ?? (await onlyMapping(qemu, block));
    assert.ok(address !== undefined, `the RAM block ${block.name} was not found in the process`);
    blocks.push({ name: block.name, bytes: await readWhole(memory, address, block.used) });
  }
  assert.ok(blocks.length > 0, 'QEMU lists its RAM blocks');
  return blocks;
}

async function readWhole(memory: FileHandle, address: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await memory.read(bytes, 0, length, address);
  assert.equal(bytesRead, length, 'all of the block could be read');
  return bytes;
}

function parseList(list: string): Listed[] {
  const line = /^\s*(\S+)\s+\d+ \wiB\s+0x\w+\s+(0x\w+)\s+(0x\w+)(?:\s+(0x\w+))?/gm;
  return [...list.matchAll(line)].map(([, name = '', used, total, address]) => ({
    name,
    used: Number(used),
    total: Number(total),
    address: address === undefined ? undefined : Number(address),
  }));
}

/** The address of a block that the guest sees from its first byte on: RAM, firmware, option ROMs. */
async function guestAddressed(qemu: Qemu, { name, total }: Listed): Promise<number | undefined> {
  for (const guestAddress of [0, 2 ** 32 - total, 0xc0000]) {
    const answer = await qemu.qmp.hmp(`gpa2hva 0x${guestAddress.toString(16)}`);
    const [, region, address] = /\((\S+)\) is (0x\w+)/.exec(answer) ?? [];
    if (region === name) return Number(address);
  }
  return undefined;
}

/** The address of a block that is the only one of its size among the mappings of the process. */
async function onlyMapping(qemu: Qemu, { total }: Listed): Promise<number | undefined> {
  const maps = await readFile(`/proc/${qemu.pid}/maps`, 'latin1');
  const starts: number[] = [];
  for (const [, start = '', end = ''] of maps.matchAll(/^(\w+)-(\w+) rw-p \w+ 00:00 0\s*$/gm)) {
    if (Number.parseInt(end, 16) - Number.parseInt(start, 16) === total) {
      starts.push(Number.parseInt(start, 16));
    }
  }
  return starts.length === 1 ? starts[0] : undefined;
}
