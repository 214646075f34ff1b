import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chanceOf } from '../helpers/streams/mutate.ts';
import { requireQemu } from '../qemu/harness/harness.ts';
import { randomLazyRestore } from './lazy-restores.ts';
import { randomMigration } from './migrations.ts';
import { randomSave } from './saves.ts';
import { randomStore } from './stores.ts';
import { randomStream } from './streams.ts';
import { randomTemplate } from './templates.ts';
import { randomRelay } from './transports.ts';

// The trials of the soak, with fixed random choices.
test('twenty relays with random faults lose nothing in silence', async () => {
  for (let seed = 0; seed < 20; seed++) assert.ok((await randomRelay(chanceOf(seed))).how);
});

test('twenty damaged streams are read to an end', async () => {
  for (let seed = 0; seed < 20; seed++) assert.ok((await randomStream(chanceOf(seed))).how);
});

test('a random migration between two QEMUs ends well', { skip: requireQemu() }, async () => {
  assert.ok((await randomMigration(chanceOf(7002))).how);
});

test('a random save is restored', { skip: requireQemu() }, async () => {
  assert.ok((await randomSave(chanceOf(9004))).how);
});

test('a random lazy restore is complete', { skip: requireQemu() }, async () => {
  assert.ok((await randomLazyRestore(chanceOf(1))).how);
});

test('a random store holds its snapshots', async () => {
  assert.ok((await randomStore(chanceOf(3))).how);
});

test('a random template has sound clones', { skip: requireQemu() }, async () => {
  assert.ok((await randomTemplate(chanceOf(1))).how);
});
