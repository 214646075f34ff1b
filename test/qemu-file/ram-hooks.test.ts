import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as constants from '../../lib/contract/constants.ts';
import { QemuFile, type QemuFileHooks } from '../../lib/qemu-file/qemu-file.ts';
import type { BytesSent } from '../../lib/qemu-file/ram-hooks.ts';
import { wrongly } from '../helpers/bytes.ts';
import { Sink } from '../helpers/transports/backends.ts';

function hooked(hooks: QemuFileHooks | null): QemuFile {
  const file = new QemuFile(new Sink());
  file.setHooks(hooks);
  return file;
}

test('the constants have the values of the header', () => {
  assert.deepEqual(
    { ...constants },
    {
      IO_BUF_SIZE: 32768,
      MAX_IOV_SIZE: 64,
      RATE_LIMIT_WINDOW_MS: 100,
      RAM_CONTROL_SETUP: 0,
      RAM_CONTROL_ROUND: 1,
      RAM_CONTROL_HOOK: 2,
      RAM_CONTROL_FINISH: 3,
      RAM_CONTROL_BLOCK_REG: 4,
      RAM_SAVE_FLAG_HOOK: 0x80,
      RAM_SAVE_CONTROL_NOT_SUPP: -1000,
      RAM_SAVE_CONTROL_DELAYED: -2000,
    },
  );
});

for (const [hook, call] of [
  ['beforeRamIterate', (file: QemuFile, flags: number) => file.ramControlBeforeIterate(flags)],
  ['afterRamIterate', (file: QemuFile, flags: number) => file.ramControlAfterIterate(flags)],
] as const) {
  describe(`the function that runs ${hook}`, () => {
    test('calls the hook with the file and the flags, without data', () => {
      const calls: unknown[][] = [];
      const file = hooked({
        [hook]: (...args: unknown[]) => {
          calls.push(args);
          return 0;
        },
      });
      call(file, constants.RAM_CONTROL_SETUP);
      call(file, constants.RAM_CONTROL_FINISH);
      assert.deepEqual(
        calls.map((args) => args.slice(1)),
        [
          [0, undefined],
          [3, undefined],
        ],
      );
      assert.equal(calls[0]?.[0], file);
      assert.equal(file.getError(), 0);
    });

    test('latches a negative answer and ignores any other', () => {
      for (const answer of [0, 1, 1000, undefined]) {
        const file = hooked({ [hook]: () => wrongly<number>(answer) });
        call(file, constants.RAM_CONTROL_ROUND);
        assert.equal(file.getError(), 0);
      }
      const file = hooked({ [hook]: () => -22 });
      call(file, constants.RAM_CONTROL_ROUND);
      assert.equal(file.getError(), -22);
      assert.equal(file.error?.operation, hook);
    });

    test('latches the error that the hook throws', () => {
      const cause = Object.assign(new Error('no such device'), { code: 'ENODEV' });
      const file = hooked({
        [hook]: () => {
          throw cause;
        },
      });
      call(file, constants.RAM_CONTROL_ROUND);
      assert.equal(file.error?.code, 'ENODEV');
      assert.equal(file.error.cause, cause);
      assert.equal(file.error.operation, hook);
    });

    test('does nothing without the hook', () => {
      for (const file of [hooked(null), hooked({}), new QemuFile(new Sink())]) {
        for (let flags = 0; flags <= 4; flags += 1) call(file, flags);
        assert.equal(file.getError(), 0);
      }
    });
  });
}

describe('ramControlLoadHook', () => {
  test('calls the hook with flags and data, and latches only a negative answer', () => {
    const calls: unknown[][] = [];
    let answer = 0;
    const file = hooked({
      hookRamLoad: (...args) => {
        calls.push(args.slice(1));
        return answer;
      },
    });
    file.ramControlLoadHook(constants.RAM_CONTROL_BLOCK_REG, 'pc.ram');
    file.ramControlLoadHook(constants.RAM_CONTROL_HOOK);
    answer = 5;
    file.ramControlLoadHook(constants.RAM_CONTROL_HOOK);
    assert.equal(file.getError(), 0);
    answer = -5;
    file.ramControlLoadHook(constants.RAM_CONTROL_BLOCK_REG, 'vga.vram');
    assert.equal(file.getError(), -5);
    assert.deepEqual(calls, [
      [4, 'pc.ram'],
      [2, undefined],
      [2, undefined],
      [4, 'vga.vram'],
    ]);
  });

  test('without the hook latches EINVAL for RAM_CONTROL_HOOK only', () => {
    for (const hooks of [null, {}, { savePage: () => 0 }]) {
      for (const flags of [0, 1, 3, 4, 5, 0x80, -1]) {
        const file = hooked(hooks);
        file.ramControlLoadHook(flags, 'pc.ram');
        assert.equal(file.getError(), 0, `flags ${flags}`);
      }
      const file = hooked(hooks);
      file.ramControlLoadHook(constants.RAM_CONTROL_HOOK);
      assert.equal(file.getError(), -22);
    }
  });
});

describe('ramControlSavePage', () => {
  /** The effect of a page of 4096 bytes, given a hook's result and the bytes that it reports as sent. */
  function save(
    answer: number,
    sentBytes: number | null,
  ): { file: QemuFile; result: number; accounted: number; moved: number; args: unknown[] } {
    let args: unknown[] = [];
    const file = hooked({
      savePage: (...given) => {
        args = given;
        if (sentBytes !== null) given[4].bytes = sentBytes;
        return answer;
      },
    });
    file.putBuffer(new Uint8Array(10));
    void file.flush();
    file.resetRateLimit();
    const before = file.tellFast();
    const result = file.ramControlSavePage(0x100000000n, 0x2000, 4096);
    const moved = file.tellFast() - before;
    return { file, result, accounted: accountedOn(file), moved, args };
  }

  /** Bytes counted in this window: the greatest limit that is exceeded, and one. */
  function accountedOn(file: QemuFile): number {
    if (file.getError() !== 0) return Number.NaN;
    let low = 0;
    let high = 1_000_000;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      file.setRateLimit(middle);
      if (middle > 0 && file.rateLimitExceeded()) low = middle + 1;
      else if (middle === 0) low = 1;
      else high = middle;
    }
    return low;
  }

  test('returns NOT_SUPP without a hook, and counts nothing', () => {
    const sent: BytesSent = { bytes: 7 };
    for (const hooks of [null, {}]) {
      const file = hooked(hooks);
      assert.equal(file.ramControlSavePage(0, 0, 4096, sent), -1000);
      assert.equal(file.tellFast(), 0);
      file.setRateLimit(1);
      assert.equal(file.rateLimitExceeded(), false);
      assert.equal(sent.bytes, 7);
    }
  });

  test('passes the file, the offsets, the size and the place for the bytes sent', () => {
    const { file, args } = save(0, 1);
    assert.equal(args[0], file);
    assert.deepEqual(args.slice(1), [0x100000000n, 0x2000, 4096, { bytes: 1 }]);
  });

  test('NOT_SUPP: nothing is counted, the page is to be sent inline', () => {
    const { file, result, accounted, moved } = save(-1000, 50);
    assert.equal(result, -1000);
    assert.equal(accounted, 1);
    assert.equal(moved, 0);
    assert.equal(file.getError(), 0);
  });

  test('DELAYED: the size is counted; neither position nor error are touched', () => {
    const { file, result, accounted, moved } = save(-2000, 50);
    assert.equal(result, -2000);
    assert.equal(accounted, 4096);
    assert.equal(moved, 0);
    assert.equal(file.getError(), 0);
  });

  for (const answer of [0, 4096, -5, -22]) {
    test(`${answer} with bytes sent: the size is counted, the position advances by the bytes sent, nothing is latched`, () => {
      const { file, result, accounted, moved } = save(answer, 50);
      assert.equal(result, answer);
      assert.equal(accounted, 4096);
      assert.equal(moved, 50);
      assert.equal(file.getError(), 0);
    });
  }

  for (const answer of [0, 1, 4096]) {
    test(`${answer} with nothing sent: the size is counted, nothing else`, () => {
      for (const sentBytes of [0, null]) {
        const { file, result, accounted, moved } = save(answer, sentBytes);
        assert.equal(result, answer);
        assert.equal(accounted, 4096);
        assert.equal(moved, 0);
        assert.equal(file.getError(), 0);
      }
    });
  }

  test('a negative answer with nothing sent is latched', () => {
    for (const sentBytes of [0, null]) {
      const { file, result, moved } = save(-22, sentBytes);
      assert.equal(result, -22);
      assert.equal(moved, 0);
      assert.equal(file.getError(), -22);
      assert.equal(file.error?.operation, 'savePage');
    }
  });

  test('an error that the hook throws is latched, and its errno is returned', () => {
    const file = hooked({
      savePage: () => {
        throw Object.assign(new Error('gone'), { code: 'EPIPE' });
      },
    });
    assert.equal(file.ramControlSavePage(0, 0, 4096), -32);
    assert.equal(file.error?.code, 'EPIPE');
  });

  test('hooks can be taken away again', () => {
    const file = hooked({ savePage: () => 0 });
    assert.equal(file.ramControlSavePage(0, 0, 1), 0);
    file.setHooks(null);
    assert.equal(file.ramControlSavePage(0, 0, 1), -1000);
  });
});
