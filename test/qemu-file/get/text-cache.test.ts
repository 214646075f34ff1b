import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';

/** Return a file over counted strings of these bytes. */
function fileOf(texts: readonly Uint8Array[]): QemuFile {
  const chunks = texts.flatMap((bytes) => [Buffer.of(bytes.length), bytes]);
  const stream = Buffer.concat(chunks);
  let isRead = false;
  return new QemuFile({
    getBuffer: () => {
      if (isRead) return 0;
      isRead = true;
      return stream;
    },
  });
}

/** Get each string as often as it was put; compare it with what Node makes of its bytes. */
async function assertTexts(texts: readonly Uint8Array[]): Promise<void> {
  const file = fileOf(texts);
  await file.fill(1);
  for (const bytes of texts) {
    assert.equal(file.getCountedString(), Buffer.from(bytes).toString('utf8'));
  }
  await file.close();
}

function repeated<T>(items: readonly T[], times: number): T[] {
  return Array.from({ length: times }, () => items).flat();
}

test('counted strings of every length are the same each time they are read', async () => {
  const texts = Array.from({ length: 256 }, (_, length) => Buffer.alloc(length, 'pc.ram/0000'));
  await assertTexts(repeated(texts, 4));
});

test('a string that differs in one byte from one that was read often is not taken for it', async () => {
  for (const length of [3, 4, 7, 19, 63]) {
    const often = Buffer.alloc(length, 'device');
    const others = Array.from(often, (byte, at) => {
      const other = Buffer.from(often);
      other[at] = byte ^ 1;
      return other;
    });
    await assertTexts([...repeated([often], 4), ...others, often, ...repeated(others, 3), often]);
  }
});

test('a string is not taken for a longer or shorter one that begins with it', async () => {
  const texts = [
    Buffer.from('vga'),
    Buffer.from('vga.'),
    Buffer.from('vga.vram'),
    Buffer.from('vg'),
  ];
  await assertTexts(repeated(texts, 4));
});

test('more strings than are kept are read as they are', async () => {
  const texts = Array.from({ length: 3000 }, (_, i) => Buffer.from(`block ${i}`));
  await assertTexts([...repeated(texts, 3), ...repeated(texts.slice(0, 700), 3)]);
});

test('bytes that are not UTF-8 give the same text each time', async () => {
  const texts = [
    Buffer.of(0xff, 0xfe, 0xfd),
    Buffer.of(0xc3, 0x28, 0x41, 0x42),
    Buffer.from('größe 漢字'),
    Buffer.alloc(8),
    Buffer.of(0xed, 0xa0, 0x80, 0x00, 0x61),
  ];
  await assertTexts(repeated(texts, 4));
});

test('another encoding is not given the text of UTF-8', async () => {
  const bytes = Buffer.from('größe');
  const file = fileOf(repeated([bytes], 6));
  await file.fill(1);
  for (let i = 0; i < 3; i++) assert.equal(file.getCountedString(), 'größe');
  assert.equal(file.getCountedString('latin1'), 'grÃ¶Ã\u009fe');
  assert.equal(file.getCountedString('hex'), '6772c3b6c39f65');
  assert.equal(file.getCountedString(), 'größe');
  await file.close();
});
