import type { DeviceState, StateValue } from '../format/device-types.ts';
import type { MigrationEvent } from '../format/events.ts';

/** Offsets in the CMOS. @see pc_cmos_init() of QEMU */
const CMOS_BASE_KIB = 0x15;
const CMOS_EXTENDED_KIB = 0x30;
const CMOS_ABOVE_16_MIB = 0x34;
const CMOS_ABOVE_4_GIB = 0x5b;
const CMOS_MIN_BYTES = 0x5e;

const KIB = 1024;
const MIB = 1_048_576;
const CMOS_UNIT_BYTES = 65_536;

/** Offsets in PCI configuration space. */
const PCI_COMMAND = 4;
const PCI_BAR2 = 0x18;
const PCI_MEMORY_ENABLE = 2;

/** Most bytes of the state of a device that is kept. */
const MAX_STATE_BYTES = 1_048_576;

/** Devices whose RAM is memory of the guest. */
const MEMORY_DEVICES: ReadonlySet<string> = new Set([
  'virtio-mem',
  'virtio-mem-device-early',
  'virtio-pmem',
  'ivshmem',
  'ivshmem-plain',
  'ivshmem-doorbell',
]);

/** Main memory of a PC in bytes, as its RTC's CMOS reports it. */
export interface PcMemory {
  readonly below4G: number;
  readonly above4G: number;
}

/** Where the RAM block of a memory device is. */
export interface DevicePlace {
  /** Kind of the device, such as `virtio-mem`. */
  readonly device: string;
  /** Guest-physical address of the block, or null if the stream does not report it. */
  readonly address: number | null;
  /** Parts of the block that the guest can access; empty if the block is not mapped. */
  readonly parts: readonly { readonly at: number; readonly length: number }[];
}

interface MemoryDevice {
  device: string;
  early?: DeviceState;
  virtio?: Uint8Array;
  pciConfig?: Uint8Array;
}

/** Collects what device state reports about the layout of guest memory. Pass it the events of a reader. */
export class LayoutFacts {
  readonly #devices = new Map<string, MemoryDevice>();
  #pcMemory: PcMemory | null = null;

  /** Main memory as the RTC reports it; null if the stream has no decoded `mc146818rtc`. */
  get pcMemory(): PcMemory | null {
    return this.#pcMemory;
  }

  /** Process the reader's next event. */
  add(event: MigrationEvent): void {
    if (event.type === 'section') this.#device(event.section.name);
    if (event.type !== 'device' || event.state === null) return;
    const { state, section } = event;
    if (section.name === 'mc146818rtc') {
      this.#pcMemory = readPcMemory(state) ?? this.#pcMemory;
      return;
    }
    const device = this.#device(section.name);
    if (device === undefined) return;
    if (section.name.endsWith('-early')) device.early = { ...state };
    const virtio = bytesOf(state.virtio);
    if (virtio !== null) device.virtio = virtio;
    const config = bytesOf((state.parent_obj as DeviceState | null | undefined)?.['config[0]']);
    if (config !== null) device.pciConfig = config;
  }

  /**
   * Return where the block of a memory device is, by the state of the device.
   *
   * @returns Undefined if the block does not belong to a known memory device.
   */
  place(block: { readonly name: string; readonly usedLength: number }): DevicePlace | undefined {
    for (const [path, device] of this.#devices) {
      if (!block.name.startsWith(`${path}/`)) continue;
      if (device.device.startsWith('virtio-mem')) return virtioMem(device, block.usedLength);
      if (device.device.startsWith('ivshmem')) return ivshmem(device, block.usedLength);
      return { device: device.device, address: null, parts: [] };
    }
    return undefined;
  }

  #device(name: string): MemoryDevice | undefined {
    const end = name.lastIndexOf('/');
    const kind = name.slice(end + 1);
    if (end < 1 || !MEMORY_DEVICES.has(kind)) return undefined;
    const path = name.slice(0, end);
    let device = this.#devices.get(path);
    if (device === undefined) {
      device = { device: kind === 'virtio-mem-device-early' ? 'virtio-mem' : kind };
      this.#devices.set(path, device);
    }
    return device;
  }
}

function bytesOf(value: StateValue | undefined): Uint8Array | null {
  if (!(value instanceof Uint8Array) || value.length > MAX_STATE_BYTES) return null;
  return Uint8Array.from(value);
}

/** Return main memory as the state of a PC's RTC, `mc146818rtc`, reports it; null if it does not. */
export function readPcMemory(state: DeviceState): PcMemory | null {
  const cmos = bytesOf(state.cmos_data);
  return cmos === null ? null : readCmos(cmos);
}

function readCmos(cmos: Uint8Array): PcMemory | null {
  if (cmos.length < CMOS_MIN_BYTES) return null;
  const word = (at: number): number => (cmos[at] as number) + (cmos[at + 1] as number) * 256;
  const above4G =
    (word(CMOS_ABOVE_4_GIB) + (cmos[CMOS_ABOVE_4_GIB + 2] as number) * 65_536) * CMOS_UNIT_BYTES;
  const above16M = word(CMOS_ABOVE_16_MIB);
  if (above16M > 0) return { below4G: 16 * MIB + above16M * CMOS_UNIT_BYTES, above4G };
  const extended = word(CMOS_EXTENDED_KIB);
  const below4G = extended > 0 ? MIB + extended * KIB : word(CMOS_BASE_KIB) * KIB;
  return below4G === 0 ? null : { below4G, above4G };
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function u64(data: DataView, at: number): number {
  return data.getUint32(at) * 2 ** 32 + data.getUint32(at + 4);
}

/** @see vmstate_virtio_mem_sanity_checks of QEMU: address, region size, block size, node */
const SANITY_BYTES = 28;

interface VirtioMemLayout {
  readonly address: number;
  readonly blockSize: number;
}

function sanityChecks(data: DataView, at: number, length: number): VirtioMemLayout | null {
  if (u64(data, at + 8) !== length) return null;
  const [address, blockSize] = [u64(data, at), u64(data, at + 16)];
  const isSound =
    blockSize >= 4096 && length % blockSize === 0 && Number.isSafeInteger(address + length);
  return isSound ? { address, blockSize } : null;
}

function virtioMem({ device, early, virtio }: MemoryDevice, length: number): DevicePlace {
  if (early !== undefined) {
    const [tmp, bitmap] = [bytesOf(early.tmp), bytesOf(early.bitmap)];
    const layout =
      tmp?.length === SANITY_BYTES && bitmap !== null ? sanityChecks(view(tmp), 0, length) : null;
    if (layout !== null && bitmap !== null) {
      const parts = pluggedParts(bitmap, layout.blockSize, length);
      if (parts !== null) return { device, address: layout.address, parts };
    }
  }
  const found = virtio === undefined ? [] : scanVirtio(virtio, length);
  // Two matches decide nothing: the guest controls some of these bytes.
  const [only] = found;
  if (found.length !== 1 || only === undefined) return { device, address: null, parts: [] };
  return { device, ...only };
}

/**
 * Find the fields of `virtio-mem-device` in the opaque body of a virtio device. QEMU before 8.0 does not
 * describe them; the sizes and the bitmap have to agree with each other and with the block.
 */
function scanVirtio(
  bytes: Uint8Array,
  length: number,
): { address: number; parts: { at: number; length: number }[] }[] {
  const found: { address: number; parts: { at: number; length: number }[] }[] = [];
  const data = view(bytes);
  for (let at = 0; at + SANITY_BYTES + 24 <= bytes.length; at++) {
    const layout = sanityChecks(data, at, length);
    if (layout === null) continue;
    const usable = u64(data, at + SANITY_BYTES);
    const plugged = u64(data, at + SANITY_BYTES + 8);
    const requested = u64(data, at + SANITY_BYTES + 16);
    if (usable > length || plugged > length || requested > length) continue;
    const start = at + SANITY_BYTES + 24;
    const bitmap = bytes.subarray(start, start + Math.ceil(length / layout.blockSize / 64) * 8);
    const parts = pluggedParts(bitmap, layout.blockSize, length);
    if (parts === null) continue;
    if (parts.reduce((sum, part) => sum + part.length, 0) !== plugged) continue;
    found.push({ address: layout.address, parts });
  }
  return found;
}

/** Return the runs of plugged blocks, or null if the bitmap is too short. @see VMSTATE_BITMAP of QEMU */
function pluggedParts(
  bitmap: Uint8Array,
  blockSize: number,
  length: number,
): { at: number; length: number }[] | null {
  const count = length / blockSize;
  if (bitmap.length * 8 < count) return null;
  const parts: { at: number; length: number }[] = [];
  for (let index = 0; index < count; index++) {
    // The words are big-endian 64-bit integers; bit 0 is the lowest.
    const byte = bitmap[(index >>> 6) * 8 + 7 - ((index >>> 3) & 7)] as number;
    if (((byte >>> (index & 7)) & 1) === 0) continue;
    const last = parts.at(-1);
    if (last !== undefined && last.at + last.length === index * blockSize) last.length += blockSize;
    else parts.push({ at: index * blockSize, length: blockSize });
  }
  return parts;
}

function ivshmem({ device, pciConfig }: MemoryDevice, length: number): DevicePlace {
  if (pciConfig === undefined || pciConfig.length < 64) return { device, address: null, parts: [] };
  const data = view(pciConfig);
  const command = data.getUint16(PCI_COMMAND, true);
  const bar = data.getUint32(PCI_BAR2, true);
  const high = (bar & 6) === 4 ? data.getUint32(PCI_BAR2 + 4, true) : 0;
  const address = high * 2 ** 32 + (bar - (bar % 16));
  // Not enabled or not assigned: the guest cannot access it at any address.
  const isMapped = (command & PCI_MEMORY_ENABLE) !== 0 && address !== 0;
  if (isMapped && !Number.isSafeInteger(address + length))
    return { device, address: null, parts: [] };
  return { device, address, parts: isMapped ? [{ at: 0, length }] : [] };
}
