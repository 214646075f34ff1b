// The child process of bench/steady-state.ts: puts and gets until the JIT has settled, then measures what
// as many again leave on the heap.
import { QemuFile } from 'qemu-file';

/** Marks in the output of --trace-deopt where the steady state begins. */
export const SETTLED = '-- settled --';

/** Message of the process at its end: bytes of heap per million operations. */
export interface HeapGrowth {
  puts: number;
  gets: number;
}

const OPS = 100_000;
const KINDS = 6;
const WARM_ROUNDS = 400;
const ROUNDS = 10;
const BYTES = Buffer.alloc(16, 0x5a);
const CHUNK = Buffer.alloc(65536, Buffer.of(0, 0, 0, 7, 1, 2, 3, 4));

const sink = new QemuFile({
  writevBuffer: (buffers) => {
    let bytes = 0;
    for (const buffer of buffers) bytes += buffer.length;
    return bytes;
  },
});
const source = new QemuFile({ getBuffer: () => CHUNK });

function puts(): void {
  for (let i = 0; i < OPS; i++) sink.putByte(i & 0xff);
  for (let i = 0; i < OPS; i++) sink.putBe16(i & 0xffff);
  for (let i = 0; i < OPS; i++) sink.putBe32(i * 40_000);
  for (let i = 0; i < OPS; i++) sink.putBe64(i * 0x1_0000_1000);
  for (let i = 0; i < OPS; i++) sink.putCountedString('pc.ram');
  for (let i = 0; i < OPS; i++) sink.putBuffer(BYTES);
}

async function gets(): Promise<number> {
  let sum = 0;
  await source.fill(OPS * 16);
  for (let i = 0; i < OPS; i++) sum = (sum + source.getBe64()) | 0;
  for (let i = 0; i < OPS; i++) sum = (sum + source.getBe32()) | 0;
  for (let i = 0; i < OPS; i++) sum = (sum + source.getBe16()) | 0;
  for (let i = 0; i < OPS; i++) sum = (sum + source.getSbyte()) | 0;
  for (let i = 0; i < OPS; i++) sum = (sum + source.getByte()) | 0;
  return sum;
}

/** Return the heap bytes that a million operations leave when nothing is collected. */
async function growth(work: () => void | Promise<unknown>, kinds: number): Promise<number> {
  global.gc?.();
  const before = process.memoryUsage().heapUsed;
  for (let round = 0; round < ROUNDS; round++) await work();
  const bytes = process.memoryUsage().heapUsed - before;
  return (bytes * 1e6) / (ROUNDS * OPS * kinds);
}

for (let round = 0; round < WARM_ROUNDS; round++) {
  puts();
  await gets();
}
console.log(SETTLED);
const result: HeapGrowth = { puts: await growth(puts, KINDS), gets: await growth(gets, 5) };
process.send?.(result);
