// What do diagnostics channels cost that have no subscribers?
import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel';
import { DIAGNOSTICS_CHANNELS, QemuFile } from 'qemu-file';
import { microRounds, nanosecondsPerOp, OPS_PER_CALL } from './harness/micro.ts';
import { alternate, atMost, type Bench, rowOf } from './harness/row.ts';

const OPS = OPS_PER_CALL;
const ours = 'no subscriber';
const subscribed = 'a subscriber';
const floor = 'no channel';

const flushes = channel(DIAGNOSTICS_CHANNELS.flush);
let published = 0;
let taken = 0;

/** Return a loop of batches of one page each. */
function batches(): () => void {
  const page = Buffer.alloc(4096);
  const file = new QemuFile(
    {
      writevBuffer: () => {
        taken += 1;
        return page.length;
      },
    },
    { gatherEntries: 1 },
  );
  return () => {
    for (let i = 0; i < OPS; i++) file.putBufferAsync(page);
  };
}

const bench: Bench = {
  question: 'What do diagnostics channels cost that have no subscribers?',
  async *run(mode) {
    const count = (): void => {
      published += 1;
    };
    const send = batches();
    const checks = await alternate(
      [
        nanosecondsPerOp(
          ours,
          () => {
            for (let i = 0; i < OPS; i++) {
              if (flushes.hasSubscribers) published += 1;
              taken += 1;
            }
          },
          mode,
        ),
        nanosecondsPerOp(
          floor,
          () => {
            for (let i = 0; i < OPS; i++) taken += 1;
          },
          mode,
        ),
      ],
      microRounds(mode),
    );
    yield rowOf(checks, {
      name: 'a channel without subscribers',
      unit: 'ns',
      ours,
      against: [floor],
      mustReach: '≤ 5 ns',
      reached: (value) => atMost(value, 5),
    });
    const sends = await alternate(
      [
        nanosecondsPerOp(ours, send, mode),
        nanosecondsPerOp(
          subscribed,
          () => {
            subscribe(DIAGNOSTICS_CHANNELS.flush, count);
            send();
            unsubscribe(DIAGNOSTICS_CHANNELS.flush, count);
          },
          mode,
        ),
      ],
      microRounds(mode),
    );
    yield rowOf(sends, {
      name: 'a batch of one page, flush channel',
      unit: 'ns',
      ours,
      against: [subscribed],
    });
    if (published + taken === 0) throw new Error('nothing left');
  },
};
export default bench;
