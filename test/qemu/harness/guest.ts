// Guests whose every byte is ours: images that switch to 32-bit protected mode, fill memory with a
// pattern that depends on nothing but the address, and then count timer ticks for ever, asleep between
// two of them. At each tick they write to some pages, in turn. What a page must hold at any moment
// follows from one number in memory, so a restored guest can be checked without its source.
//
//   0x001000  interrupt table            0x004000  counter: timer ticks since the pattern was ready
//   0x002000  stack (grows down from     0x004004  `readyMagic` once the pattern is complete
//             0x003000)                  0x004008  sequence: how many page writes have been made
//   0x007c00  the program, when it is a boot sector
//   0x100000  the pattern; its first `dirtyBytes` are the pages written to, one word in each
//             after it, pages that are now all zero, now not

const IDT = 0x1000;
const STACK_TOP = 0x3000;
const PAGE_SIZE = 4096;
const TIMER_VECTOR = 0x20;
const LOCAL_APIC = 0xfee00000;
const PIT_HZ = 1_193_182;
const CODE_SELECTOR = 0x08;
const DATA_SELECTOR = 0x10;
const PATTERN_STEP = 0x9e3779b1;
const FIRMWARE_SIZE = 0x10000;
const FIRMWARE_START = 0xfc00;
const RESET_VECTOR = 0xfff0;
const BOOT_SECTOR_SIZE = 512;
const BOOT_SECTOR_ADDRESS = 0x7c00;
const SIGNATURE_OFFSET = 510;

/** Guest-physical addresses that a test may want to look at. */
export const GUEST = {
  /** 32-bit word that goes up by one with every timer tick. */
  counter: 0x4000,
  /** 32-bit word that is `readyMagic` once the pattern is complete. */
  ready: 0x4004,
  /** The word at `ready` then. */
  readyMagic: 0x59444552,
  /** 32-bit word: number of page writes made so far. */
  sequence: 0x4008,
  /** Where the pattern begins. */
  pattern: 0x100000,
  /** Offset in a dirtied or flickering page of the word that is written. */
  dirtyOffset: 0x800,
  /** The bit of the counter that flickering pages hold; all of the page is zero while it is clear. */
  flickerBit: 0x10,
} as const;

/** The program of a guest; every field has a default. */
export interface GuestProgram {
  /** Bytes of pattern, a multiple of 4096. Default 1 MiB. */
  patternBytes?: number;
  /** Words of pattern in each page, 2 to 1024; the rest of the page is zero. Default 1024. */
  wordsPerPage?: number;
  /** How much of the memory after the pattern flickers, a multiple of 4096. Default 0. */
  flickerBytes?: number;
  /** How much of the pattern is written to for ever, a multiple of 4096. Default 0: only the counter moves. */
  dirtyBytes?: number;
  /** Pages written to at each tick. Default 16. */
  dirtyPagesPerTick?: number;
  /** Timer ticks per second, 19 to 10000. Default 250. */
  ticksPerSecond?: number;
}

/**
 * Makes a 64 KiB firmware image, for `-bios` of any x86 machine that has the PC's timer.
 *
 * @param program - The program of the guest.
 */
export function firmware(program: GuestProgram = {}): Buffer {
  const image = Buffer.alloc(FIRMWARE_SIZE);
  const code = new Code(0xffff0000 + FIRMWARE_START);
  code.put(0xfa); // cli
  code.put(0x2e, 0x66, 0x0f, 0x01, 0x16); // o32 lgdt cs:[gdtr]
  const gdtr = code.word16Later();
  enterProtectedMode(code);
  emitProgram(code, program);
  emitGdt(code, gdtr);
  image.set(code.bytes(), FIRMWARE_START);

  // The processor starts 16 bytes below the end of the image, in real mode with CS based there.
  const reset = new Code(0xffff0000 + RESET_VECTOR);
  reset.put(0xe9, ...le16(FIRMWARE_START - (RESET_VECTOR + 3))); // jmp FIRMWARE_START
  image.set(reset.bytes(), RESET_VECTOR);
  return image;
}

/**
 * Makes a boot sector, for `-drive format=raw,file=…` on a machine whose BIOS boots from disk.
 *
 * @param program - The program of the guest.
 */
export function bootSector(program: GuestProgram = {}): Buffer {
  const image = Buffer.alloc(BOOT_SECTOR_SIZE);
  const code = new Code(BOOT_SECTOR_ADDRESS);
  code.put(0xfa); // cli
  code.put(0x31, 0xc0); // xor ax, ax
  code.put(0x8e, 0xd8); // mov ds, ax
  code.put(0xe4, 0x92); // in al, 0x92
  code.put(0x0c, 0x02); // or al, 2      address line 20 on
  code.put(0x24, 0xfe); // and al, 0xfe  and no reset
  code.put(0xe6, 0x92); // out 0x92, al
  code.put(0x66, 0x0f, 0x01, 0x16); // o32 lgdt [gdtr]
  const gdtr = code.word16Later();
  enterProtectedMode(code);
  emitProgram(code, program);
  emitGdt(code, gdtr);
  const bytes = code.bytes();
  if (bytes.length > SIGNATURE_OFFSET) throw new RangeError('the guest outgrew its boot sector');
  image.set(bytes);
  image.set([0x55, 0xaa], SIGNATURE_OFFSET);
  return image;
}

/**
 * Return the first wrong word of a guest's memory as a text; undefined if every word of the pattern is right.
 *
 * @param memory - Guest-physical memory from address 0 on, at least to the end of the pattern.
 * @param program - The program with which the guest was made.
 * @returns One line for each wrong word, 16 at most.
 */
export function memoryProblems(memory: Buffer, program: GuestProgram): string[] {
  const { patternBytes, dirtyBytes, wordsPerPage, flickerBytes } = checked(program);
  const problems: string[] = [];
  if (memory.readUInt32LE(GUEST.ready) !== GUEST.readyMagic)
    problems.push('the pattern is not complete');
  const sequence = memory.readUInt32LE(GUEST.sequence);
  const dirtyPages = dirtyBytes / PAGE_SIZE;
  for (let offset = 0; offset < patternBytes && problems.length < 16; offset += 4) {
    const address = GUEST.pattern + offset;
    const found = memory.readUInt32LE(address);
    const page = Math.floor(offset / PAGE_SIZE);
    const isDirtied = page < dirtyPages && address % PAGE_SIZE === GUEST.dirtyOffset;
    const wanted =
      (isDirtied ? lastWriteTo(page, sequence, dirtyPages) : 0) || patternAt(address, wordsPerPage);
    // A guest stopped between the two stores of one write is one write ahead of its sequence.
    const aheadByOne = isDirtied && found === sequence + 1 && sequence % dirtyPages === page;
    if (found !== wanted && !aheadByOne) {
      problems.push(`at 0x${address.toString(16)}: ${hex32(found)} instead of ${hex32(wanted)}`);
    }
  }
  const counter = memory.readUInt32LE(GUEST.counter);
  // The pages are written before the counter, each of them at the latest one tick ago.
  const wanted = [counter & GUEST.flickerBit, (counter - 1) & GUEST.flickerBit];
  for (let offset = 0; offset < flickerBytes && problems.length < 16; offset += PAGE_SIZE) {
    const address = GUEST.pattern + patternBytes + offset;
    const found = memory.readUInt32LE(address + GUEST.dirtyOffset);
    const others = memory
      .subarray(address, address + PAGE_SIZE)
      .filter((byte) => byte !== 0).length;
    if (!wanted.includes(found) || others > (found === 0 ? 0 : 1)) {
      problems.push(`at 0x${address.toString(16)}: a page that flickers wrongly, ${hex32(found)}`);
    }
  }
  return problems;
}

/** The word that the guest puts at an address of the pattern: the page's own address, then a series. */
function patternAt(address: number, wordsPerPage: number): number {
  const word = (address % PAGE_SIZE) / 4;
  if (word >= wordsPerPage) return 0;
  return word === 0 ? address : Math.imul(word, PATTERN_STEP) >>> 0;
}

/** The number of the last write to a page, counted from 1, or 0 when there was none. */
function lastWriteTo(page: number, sequence: number, dirtyPages: number): number {
  if (sequence <= page) return 0;
  return sequence - ((sequence - 1 - page) % dirtyPages);
}

function checked(program: GuestProgram): Required<GuestProgram> {
  const { patternBytes = 1 << 20, dirtyBytes = 0 } = program;
  const { wordsPerPage = PAGE_SIZE / 4, flickerBytes = 0 } = program;
  const { dirtyPagesPerTick = 16, ticksPerSecond = 250 } = program;
  if ([patternBytes, dirtyBytes, flickerBytes].some((bytes) => bytes % PAGE_SIZE !== 0)) {
    throw new RangeError('the sizes of pattern, dirty range and flickering are multiples of 4096');
  }
  if (wordsPerPage < 2 || wordsPerPage > PAGE_SIZE / 4) {
    throw new RangeError('a page has 2 to 1024 words of pattern');
  }
  if (dirtyBytes > patternBytes) throw new RangeError('the dirty range lies in the pattern');
  if (ticksPerSecond < 19 || ticksPerSecond > 10_000) {
    throw new RangeError('the timer makes 19 to 10000 ticks per second');
  }
  return {
    patternBytes,
    wordsPerPage,
    flickerBytes,
    dirtyBytes,
    dirtyPagesPerTick,
    ticksPerSecond,
  };
}

/** Real-mode code, after lgdt: on with protection, and on to the 32-bit code that follows. */
function enterProtectedMode(code: Code): void {
  code.put(0x0f, 0x20, 0xc0); // mov eax, cr0
  code.put(0x0c, 0x01); // or al, 1
  code.put(0x0f, 0x22, 0xc0); // mov cr0, eax
  code.put(0x66, 0xea, ...le32(code.here + 8), ...le16(CODE_SELECTOR)); // jmp CODE_SELECTOR:next
}

/** The 32-bit program: pattern, interrupt table, timer, and the endless loop. */
function emitProgram(code: Code, program: GuestProgram): void {
  const settings = checked(program);
  const { patternBytes, wordsPerPage, flickerBytes } = settings;
  const { dirtyBytes, dirtyPagesPerTick, ticksPerSecond } = settings;
  const { counter, ready, readyMagic, sequence, pattern, dirtyOffset } = GUEST;

  code.put(0xb8, ...le32(DATA_SELECTOR)); // mov eax, DATA_SELECTOR
  code.put(0x8e, 0xd8); // mov ds, ax
  code.put(0x8e, 0xc0); // mov es, ax
  code.put(0x8e, 0xd0); // mov ss, ax
  code.put(0xbc, ...le32(STACK_TOP)); // mov esp, STACK_TOP
  code.put(0xfc); // cld

  code.put(0xbf, ...le32(pattern)); // mov edi, pattern
  code.put(0xba, ...le32(PATTERN_STEP)); // mov edx, PATTERN_STEP
  const nextPage = code.here;
  code.put(0x81, 0xff, ...le32(pattern + patternBytes)); // cmp edi, end of pattern
  const filled = code.jumpLater(0x73); // jae filled
  code.put(0x89, 0xf8); // mov eax, edi
  code.put(0xab); // stosd              the page's own address
  code.put(0x89, 0xd0); // mov eax, edx
  code.put(0xb9, ...le32(wordsPerPage - 1)); // mov ecx, words left to fill in the page
  const nextWord = code.here;
  code.put(0xab); // stosd
  code.put(0x01, 0xd0); // add eax, edx
  code.jump(0xe2, nextWord); // loop nextWord
  const rest = PAGE_SIZE - 4 * wordsPerPage;
  if (rest > 0) code.put(0x81, 0xc7, ...le32(rest)); // add edi, rest
  code.jump(0xeb, nextPage); // jmp nextPage
  filled();

  // One interrupt gate, for the timer; everything else is masked.
  code.put(0xb8); // mov eax, (CODE_SELECTOR << 16) | low half of the handler
  const handlerLow = code.word16Later();
  code.put(...le16(CODE_SELECTOR));
  code.put(0xa3, ...le32(IDT + 8 * TIMER_VECTOR)); // mov [gate], eax
  code.put(0xb8, ...le16(0x8e00)); // mov eax, (high half of the handler << 16) | 32-bit gate
  const handlerHigh = code.word16Later();
  code.put(0xa3, ...le32(IDT + 8 * TIMER_VECTOR + 4)); // mov [gate + 4], eax
  code.put(0x0f, 0x01, 0x1d); // lidt [idtr]
  const idtr = code.word32Later();

  // The local interrupt controller, where there is one, comes up with its way from the PC's own ones shut.
  code.put(0xc7, 0x05, ...le32(LOCAL_APIC + 0xf0), ...le32(0x1ff)); // mov dword [spurious], on
  code.put(0xc7, 0x05, ...le32(LOCAL_APIC + 0x350), ...le32(0x700)); // mov dword [lint0], external

  const outputs: readonly [port: number, value: number][] = [
    [0x20, 0x11], // first interrupt controller: initialise, in cascade
    [0x21, TIMER_VECTOR], // its vectors
    [0x21, 0x04], // the second one is at its input 2
    [0x21, 0x03], // 8086 mode, and no end-of-interrupt command wanted
    [0x21, 0xfe], // all masked but the timer
    [0xa0, 0x11], // second interrupt controller, likewise
    [0xa1, TIMER_VECTOR + 8],
    [0xa1, 0x02],
    [0xa1, 0x03],
    [0xa1, 0xff],
    [0x43, 0x34], // timer channel 0: rate generator, divisor in two bytes
    [0x40, Math.round(PIT_HZ / ticksPerSecond) & 0xff],
    [0x40, Math.round(PIT_HZ / ticksPerSecond) >> 8],
  ];
  for (const [port, value] of outputs) {
    code.put(0xb0, value); // mov al, value
    code.put(0xe6, port); // out port, al
  }

  code.put(0x31, 0xc0); // xor eax, eax
  code.put(0xa3, ...le32(counter)); // mov [counter], eax
  code.put(0xa3, ...le32(sequence)); // mov [sequence], eax
  code.put(0x31, 0xed); // xor ebp, ebp        ebp is the counter,
  code.put(0x31, 0xf6); // xor esi, esi        esi the sequence,
  code.put(0xbf, ...le32(pattern)); // mov edi, pattern    edi the page to write to
  code.put(0xc7, 0x05, ...le32(ready), ...le32(readyMagic)); // mov dword [ready], readyMagic

  const nextTick = code.here;
  code.put(0xfb); // sti
  code.put(0xf4); // hlt
  code.put(0xfa); // cli
  if (dirtyBytes > 0 && dirtyPagesPerTick > 0) {
    code.put(0xb9, ...le32(dirtyPagesPerTick)); // mov ecx, dirtyPagesPerTick
    const nextWrite = code.here;
    flushTlb(code);
    code.put(0x46); // inc esi
    code.put(0x89, 0xb7, ...le32(dirtyOffset)); // mov [edi + dirtyOffset], esi
    code.put(0x89, 0x35, ...le32(sequence)); // mov [sequence], esi
    code.put(0x81, 0xc7, ...le32(PAGE_SIZE)); // add edi, PAGE_SIZE
    code.put(0x81, 0xff, ...le32(pattern + dirtyBytes)); // cmp edi, end of the dirty range
    const inRange = code.jumpLater(0x72); // jb inRange
    code.put(0xbf, ...le32(pattern)); // mov edi, pattern
    inRange();
    code.jump(0xe2, nextWrite); // loop nextWrite
  }
  flushTlb(code);
  if (flickerBytes > 0) emitFlicker(code, pattern + patternBytes, flickerBytes);
  code.put(0x45); // inc ebp
  code.put(0x89, 0x2d, ...le32(counter)); // mov [counter], ebp
  code.jump(0xeb, nextTick); // jmp nextTick

  const handler = code.here;
  code.put(0xcf); // iret
  handlerLow(handler & 0xffff);
  handlerHigh(handler >>> 16);

  idtr(code.here);
  code.put(...le16(8 * (TIMER_VECTOR + 1) - 1), ...le32(IDT)); // limit and base of the table
}

/** Writes one bit of the counter to each of some pages: once per tick, and so after the TLB was flushed. */
function emitFlicker(code: Code, start: number, bytes: number): void {
  code.put(0x89, 0xe8); // mov eax, ebp
  code.put(0x25, ...le32(GUEST.flickerBit)); // and eax, flickerBit
  code.put(0xba, ...le32(start)); // mov edx, start
  const nextPage = code.here;
  code.put(0x89, 0x82, ...le32(GUEST.dirtyOffset)); // mov [edx + dirtyOffset], eax
  code.put(0x81, 0xc2, ...le32(PAGE_SIZE)); // add edx, PAGE_SIZE
  code.put(0x81, 0xfa, ...le32(start + bytes)); // cmp edx, end
  code.jump(0x72, nextPage); // jb nextPage
}

/**
 * QEMU's TCG before 9.0 forgets, when it collects the dirty pages, to watch those again whose translation
 * it holds: a second write to one of them is then lost to a migration, unless the guest has dropped its
 * translations in between. Changing CR0.WP does that, and without paging does nothing else.
 */
function flushTlb(code: Code): void {
  code.put(0x0f, 0x20, 0xc0); // mov eax, cr0
  code.put(0x35, ...le32(0x10000)); // xor eax, write protection
  code.put(0x0f, 0x22, 0xc0); // mov cr0, eax
}

/** The descriptor table (flat code and data, marked as accessed because ROM cannot be) and its pointer. */
function emitGdt(code: Code, gdtrOffset: (value: number) => void): void {
  const gdt = code.here;
  code.put(0, 0, 0, 0, 0, 0, 0, 0); // the null descriptor
  code.put(0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0); // CODE_SELECTOR: 4 GiB, 32-bit, execute and read
  code.put(0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0); // DATA_SELECTOR: 4 GiB, read and write
  gdtrOffset(code.here & 0xffff);
  code.put(...le16(3 * 8 - 1), ...le32(gdt)); // limit and base of the table
}

/** Bytes of machine code under construction, with the few kinds of reference that the guest needs. */
class Code {
  readonly #origin: number;
  readonly #bytes: number[] = [];

  /** @param origin - Address at which the first byte will run. */
  constructor(origin: number) {
    this.#origin = origin;
  }

  /** Address of the next byte. */
  get here(): number {
    return this.#origin + this.#bytes.length;
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  put(...bytes: number[]): void {
    this.#bytes.push(...bytes);
  }

  /** A short jump (`opcode` with an 8-bit displacement) back to an address. */
  jump(opcode: number, target: number): void {
    this.put(opcode, displacement(target - (this.here + 2)));
  }

  /** A short jump forward; call the answer where it shall land. */
  jumpLater(opcode: number): () => void {
    this.put(opcode, 0);
    const end = this.here;
    return () => {
      this.#patch(end - 1, [displacement(this.here - end)]);
    };
  }

  /** A 16-bit word whose value is given to the answer. */
  word16Later(): (value: number) => void {
    const at = this.here;
    this.put(0, 0);
    return (value) => this.#patch(at, le16(value));
  }

  /** A 32-bit word whose value is given to the answer. */
  word32Later(): (value: number) => void {
    const at = this.here;
    this.put(0, 0, 0, 0);
    return (value) => this.#patch(at, le32(value));
  }

  #patch(address: number, bytes: readonly number[]): void {
    this.#bytes.splice(address - this.#origin, bytes.length, ...bytes);
  }
}

function displacement(distance: number): number {
  if (distance < -128 || distance > 127) throw new RangeError('too far for a short jump');
  return distance & 0xff;
}

function le16(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff];
}

function le32(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
}

function hex32(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
