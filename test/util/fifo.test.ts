import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Fifo } from '../../lib/util/fifo.ts';

test('a queue behaves as an array for any operations', () => {
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ push: fc.integer({ min: 1, max: 700 }) }) },
    { weight: 5, arbitrary: fc.record({ shift: fc.integer({ min: 1, max: 900 }) }) },
    { weight: 2, arbitrary: fc.record({ unshift: fc.nat(40) }) },
    { weight: 1, arbitrary: fc.record({ remove: fc.nat(3000) }) },
    {
      weight: 1,
      arbitrary: fc.constantFrom('takeAll' as const, 'clear' as const, 'first' as const),
    },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const fifo = new Fifo<number>();
      let model: number[] = [];
      let next = 0;
      const some = (count: number): number[] => Array.from({ length: count }, () => next++);
      for (const doing of steps) {
        if (doing === 'takeAll') {
          assert.deepEqual(fifo.takeAll(), model);
          model = [];
        } else if (doing === 'clear') {
          fifo.clear();
          model = [];
        } else if (doing === 'first') {
          if (model.length > 0) fifo.first = model[0] = next++;
        } else if ('push' in doing) {
          for (const item of some(doing.push)) {
            fifo.push(item);
            model.push(item);
          }
        } else if ('shift' in doing) {
          for (let at = 0; at < doing.shift; at += 1) assert.equal(fifo.shift(), model.shift());
        } else if ('unshift' in doing) {
          const items = some(doing.unshift);
          fifo.unshift(items);
          model.unshift(...items);
        } else {
          const at = model.indexOf(doing.remove);
          assert.equal(fifo.remove(doing.remove), at >= 0);
          if (at >= 0) model.splice(at, 1);
        }
        assert.equal(fifo.length, model.length);
        assert.equal(fifo.first, model[0]);
      }
      assert.deepEqual(fifo.takeAll(), model);
    }),
  );
});
