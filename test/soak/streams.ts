// Damaged streams into the reader: whatever comes, it ends, in a fault or not, and soon.
import { recordings, unpack } from '../fixtures/recording.ts';
import { type Hostile, readHostile } from '../helpers/streams/hostile.ts';
import { below, type Chance, mutate, oneOf } from '../helpers/streams/mutate.ts';
import { smallStreams } from '../helpers/streams/small-streams.ts';
import type { Outcome } from './outcome.ts';

/** Streams of recordings take longer: so large, and one in so many. */
const MAX_RECORDING = 1 << 20;
const ONE_IN = 20;

interface Sample extends Hostile {
  readonly name: string;
}

let small: readonly Sample[] | undefined;
let recorded: readonly Sample[] | undefined;

/** Reads a damaged stream, and asserts that this ends as it must. */
export async function randomStream(chance: Chance): Promise<Outcome> {
  small ??= smallStreams().map(({ name, main, channels }) => ({
    name,
    main: main.bytes,
    channels: channels.map(({ bytes }) => bytes),
  }));
  recorded ??= recordedStreams();
  const samples = below(ONE_IN, chance) === 0 ? recorded : small;
  const { name, main, channels = [] } = oneOf(samples, chance);
  const which = below(channels.length + 1, chance);
  const damaged = {
    main: which === 0 ? mutate(main, chance) : main,
    channels: channels.map((bytes, index) => (index + 1 === which ? mutate(bytes, chance) : bytes)),
  };
  const faults = await readHostile(damaged, chance, { all: below(2, chance) === 0 });
  return { what: name, how: faults.length > 0 ? 'faults' : 'a stream all the same' };
}

function recordedStreams(): Sample[] {
  return recordings().flatMap(({ name, files }) => {
    const parts = files.filter(({ kind }) => kind !== 'return' && kind !== 'image');
    const isMain = parts[0]?.kind === 'main' && parts[0].streamAt === undefined;
    if (!isMain || parts.some(({ bytes }) => bytes > MAX_RECORDING)) return [];
    const [main, ...channels] = parts.map(unpack);
    return main === undefined ? [] : [{ name, main, channels }];
  });
}
