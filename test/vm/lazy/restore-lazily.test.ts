import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/index.ts';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { restoreLazily } from '../../../lib/vm/index.ts';
import { bareGuest } from '../../helpers/guests/saved-guest.ts';
import { connectFake, type Received } from '../fake-monitor.ts';
import { fakeSource } from './fake-source.ts';

/** `info ramblock` as QEMU 10.0 prints it. */
const RAMBLOCK = `              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000000004000 0x0000000000004000 0x00007f0000000000  rw
`;

function guest(): SavedGuest {
  return bareGuest(fakeSource([['pc.ram', 4, [[0, 4]]]]));
}

/** A QEMU that waits for a guest, on a host whose kernel denies it userfaultfd. */
function denying(words: string, commands: string[]): (command: Received) => unknown {
  return ({ execute, arguments: args }) => {
    commands.push(execute);
    switch (execute) {
      case 'query-status':
        return { status: 'inmigrate', running: false };
      case 'query-migrate':
      case 'query-migrate-parameters':
        return {};
      case 'query-migrate-capabilities':
        return [{ capability: 'postcopy-ram', state: false }];
      case 'human-monitor-command':
        return args['command-line'] === 'info ramblock' ? RAMBLOCK : '';
      case 'query-memdev':
        return [];
      case 'migrate-set-capabilities':
        return new Error(words);
      default:
        return new Error(`the command ${execute} has not been found`);
    }
  };
}

describe('a lazy restore where the kernel denies userfaultfd', () => {
  for (const words of [
    'Postcopy is not supported',
    'Postcopy is not supported: Userfaultfd not available: Operation not permitted',
  ]) {
    test(`is refused with what to do about "${words}", and QEMU still waits`, async () => {
      const commands: string[] = [];
      const { qmp } = await connectFake(denying(words, commands));
      await assert.rejects(restoreLazily(qmp, guest()), (error) => {
        assert.ok(error instanceof QemuFileError);
        const { code, message } = error;
        assert.equal(code, 'ENOTSUP');
        assert.ok(message.includes(`QEMU refuses postcopy: ${words}; `), message);
        assert.match(message, /vm\.unprivileged_userfaultfd=1/);
        assert.match(message, /\/dev\/userfaultfd \(its group\)/);
        return true;
      });
      assert.ok(!commands.includes('migrate-incoming') && !commands.includes('quit'));
      await qmp.close();
    });
  }
});
