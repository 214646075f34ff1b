// Child process: verify one stream that claims to need much memory, and report the memory really used.
import { readFileSync } from 'node:fs';
import { deflateSync } from 'node:zlib';
import { combineVisitors } from '../../../lib/migration/memory/combine-visitors.ts';
import type { PageStore } from '../../../lib/migration/memory/page-store.ts';
import { RamImage } from '../../../lib/migration/memory/ram-image.ts';
import { RamMap } from '../../../lib/migration/memory/ram-map.ts';
import { StreamSummarizer } from '../../../lib/migration/verify/summary.ts';
import { type VerifyOptions, verifyStream } from '../../../lib/migration/verify/verify.ts';
import {
  be16,
  be32,
  be64,
  blockList,
  command,
  configuration,
  counted,
  end,
  eos,
  FLAG,
  header,
  multifdInitial,
  multifdPacket,
  PC,
  page,
  piece,
  RAM,
  section,
  stream,
  subsection,
  word,
  zeroPage,
} from './stream-bytes.ts';

const PAGE = 4096;
const MIB = 1_048_576;

type Chunks = Iterable<Uint8Array>;

/** Yield the same bytes repeatedly, so that the input itself takes no memory. */
function* repeated(bytes: Uint8Array, times: number): Generator<Uint8Array, void> {
  for (let time = 0; time < times; time++) yield bytes;
}

function* inRow(...all: readonly Chunks[]): Generator<Uint8Array, void> {
  for (const chunks of all) yield* chunks;
}

const begin = (list: Uint8Array): Buffer => stream(header, PC, section('start', 2, RAM, list, eos));
const small = begin(blockList(['a', 4 * PAGE]));
const finish = stream(piece('end', 2, eos), end);
const inPart = (chunks: Chunks): Chunks =>
  inRow([small, stream('02', be32(2))], chunks, [stream(eos, '7e', be32(2)), finish]);
const many = (bytes: Uint8Array): Buffer =>
  Buffer.concat(Array.from({ length: 1000 }, () => bytes));

/** Return pages so far apart that each needs its own entry in every table of pages. */
function* scattered(count: number): Generator<Uint8Array, void> {
  for (let index = 0; index < count; index++) {
    const offset = index * 2 ** 31;
    const zero = zeroPage('a', offset);
    yield index % 2 === 0
      ? zero
      : stream(zero, word('a', offset, FLAG.xbzrle), '01', be16(3), '000101');
  }
}

function* manyDevices(): Generator<Uint8Array, void> {
  for (let id = 0; id < 20; id++) {
    yield stream('04', be32(100 + id), counted(`d${id}`), be32(0), be32(1));
    yield* repeated(Buffer.alloc(MIB, 1), 30);
    yield stream('7e', be32(100 + id));
  }
}

function description(json: Chunks, length: number): Chunks {
  return inRow([small, finish, stream('06', be32(length))], json);
}

const mapped = stream(
  header,
  configuration('pc', subsection('configuration/capabilities', 1, be32(1), counted('mapped-ram'))),
  stream('01', be32(2), counted('ram'), be32(0), be32(4)),
  be64(2 ** 42 + FLAG.memSize),
  counted('a'),
  be64(2 ** 42),
);
const mappedHead = stream(be32(1), be64(PAGE), be64(mapped.length + 28), be64(256 * MIB));

/** Return the bytes of a channel: half a MiB of compressed pages. */
function channel(id: number): Chunks {
  const normal = Array.from({ length: 128 }, (_, index) => index * PAGE);
  const payload = deflateSync(Buffer.alloc(128 * PAGE), { finishFlush: 2 });
  const sync = multifdPacket({ flags: 1 });
  return [multifdInitial(id), sync, multifdPacket({ flags: 2, block: 'a', normal, payload }), sync];
}

/** A store that keeps nothing. */
const discarding: PageStore = {
  write: () => {},
  zero: () => {},
  read: (_position, target) => void target.fill(0),
  close: () => {},
};

interface Case {
  readonly main: Chunks;
  readonly channels?: readonly Chunks[];
  readonly all?: boolean;
  /** Make a manifest, which keeps bytes until their section is known. */
  readonly digests?: boolean;
}

const CASES: Readonly<Record<string, () => Case>> = {
  'a package of 1 GiB that is not there': () => ({
    main: [stream(header, PC, command(7, be32(1 << 30)), command(1))],
  }),
  'a package of 600 MB': () => {
    const record = page('a', 0, Buffer.alloc(PAGE, 1));
    const inner = inRow([stream('02', be32(2))], repeated(many(record), 150), [
      stream(eos, '7e', be32(2)),
      end,
    ]);
    const size = 5 + 150_000 * record.length + 8 + 5 + 1;
    return { main: inRow([stream(small, command(7, be32(size)))], inner, [finish]) };
  },
  'a description of 64 MiB that is not there': () => ({
    main: description([Buffer.from('{')], 64 * MIB),
  }),
  'a description of 64 MiB of text': () => ({
    main: description(
      inRow(
        [Buffer.from('{"page_size": 4096, "devices": [], "x": "')],
        repeated(Buffer.alloc(MIB, 'a'), 63),
        [Buffer.from('"}')],
      ),
      63 * MIB + 43,
    ),
  }),
  'a description of as many parts as may be': () => ({
    main: description(
      inRow([Buffer.from('{"page_size": 4096, "x": [')], repeated(many(Buffer.from('{},')), 1390), [
        Buffer.from('{}], "devices": []}'),
      ]),
      26 + 3000 * 1390 + 19,
    ),
  }),
  '4096 huge blocks': () => ({
    main: [
      begin(blockList(...Array.from({ length: 4096 }, (_, at) => [`b${at}`, 2 ** 38] as const))),
      finish,
    ],
  }),
  'pages all over a block of 1 PiB': () => ({
    main: inRow([begin(blockList(['a', 2 ** 50])), stream('02', be32(2))], scattered(400_000), [
      stream(eos, '7e', be32(2)),
      finish,
    ]),
  }),
  'a bitmap of a block of 4 TiB': () => ({
    main: inRow([mapped, mappedHead], repeated(Buffer.alloc(MIB), 129)),
  }),
  '255 channels': () => ({
    main: [
      stream(
        header,
        PC,
        section('start', 2, RAM, blockList(['a', 128 * PAGE]), be64(FLAG.flush), eos),
        piece('end', 2, be64(FLAG.flush), eos),
        end,
      ),
    ],
    channels: Array.from({ length: 255 }, (_, id) => channel(id)),
  }),
  'warnings without end': () => ({
    main: inPart(repeated(many(zeroPage('a', 0, 7)), 1000)),
  }),
  'faults without end': () => ({
    main: inPart(repeated(many(zeroPage('a', 4 * PAGE)), 1000)),
    all: true,
  }),
  'pieces without end': () => ({
    main: inRow([small], repeated(many(piece('part', 2, eos)), 700), [finish]),
  }),
  'commands without end': () => ({
    main: inRow([small], repeated(many(command(2, be32(1))), 700), [finish]),
  }),
  'unknown commands without end': () => ({
    main: inRow([small], repeated(many(command(99)), 700), [finish]),
    all: true,
  }),
  'device sections without end, before RAM': () => ({
    main: inRow([header, PC], manyDevices(), [finish]),
  }),
  'device sections without end, behind RAM': () => ({
    main: inRow([small, piece('end', 2, eos)], manyDevices(), [end]),
  }),
  'contents of disks and bytes behind, for a manifest': () => {
    const chunk = stream(be64(1), counted('vda'), Buffer.alloc(MIB, 1));
    return {
      main: inRow(
        [small, section('start', 3, ['block', 0, 1], be64(2)), stream('02', be32(3))],
        repeated(chunk, 800),
        [stream(be64(2), '7e', be32(3)), piece('end', 3, be64(2)), finish],
        repeated(Buffer.alloc(MIB), 800),
      ),
      digests: true,
    };
  },
  'storage keys without end, for a manifest': () => ({
    main: inRow(
      [small, piece('end', 2, eos), stream('04', be32(9), counted('s390-skeys'), be32(0), be32(1))],
      repeated(stream(be64(2), be64(MIB), Buffer.alloc(MIB)), 1000),
      [stream(be64(1), '7e', be32(9)), end],
    ),
    digests: true,
  }),
  'bytes behind it without end': () => ({
    main: inRow([small, finish], repeated(Buffer.alloc(MIB), 1500)),
  }),
};

async function* chunksOf(chunks: Chunks): AsyncGenerator<Uint8Array, void> {
  yield* chunks;
}

async function run(name: string): Promise<void> {
  const { main, channels = [], all, digests } = (CASES[name] as () => Case)();
  const image = new RamImage({ store: () => discarding });
  const summarizer = new StreamSummarizer();
  const options: VerifyOptions = {
    channels: channels.map(chunksOf),
    all,
    withoutDescription: true,
    digests: digests === true ? { store: () => discarding } : undefined,
    pages: combineVisitors([image, new RamMap()]),
    onEvent: (event) => summarizer.add(event),
  };
  let outcome: string;
  try {
    const { faults } = await verifyStream(chunksOf(main), options);
    outcome = faults.map(({ fault, reason }) => `${fault}: ${reason}`)[0] ?? 'fine';
  } catch (error) {
    outcome = String(error);
  }
  const status = readFileSync('/proc/self/status', 'utf8');
  const peak = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) * 1024;
  const micros = process.cpuUsage().user;
  process.stdout.write(JSON.stringify({ name, outcome, peak, micros }));
}

const [, , name] = process.argv;
if (name === 'list') process.stdout.write(JSON.stringify(Object.keys(CASES)));
else await run(name as string);
