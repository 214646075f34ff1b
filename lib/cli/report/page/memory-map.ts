import { explainUnderPointer, hideTip, keepDrawn, showTip, themeColour } from './drawing.ts';
import { formatHex, formatNumber } from './format.ts';

/** Cells of a map from which on it gets the whole width of the page. */
const MIN_WIDE_CELLS = 256;
/** Least height in pixels of what a cell has any of. */
const MIN_PART_HEIGHT = 1.5;

/** Pages of a block or of one of its cells, by what was sent for them; resent ones are data or zeros as well. */
export type PageTally = [zero: number, data: number, resent: number, absent: number];

/** A map of a block: its cells, and how it calls the pages of the last two kinds. */
export interface MapView {
  readonly usedLength: number;
  readonly cellBytes: number;
  readonly cells: readonly number[];
  readonly labels: { readonly resent: string; readonly absent: string };
}

/** Return the pages of a block, or those of one of its cells. */
export function tallyPages(cells: readonly number[], cell?: number): PageTally {
  const sum: PageTally = [0, 0, 0, 0];
  const first = cell === undefined ? 0 : 4 * cell;
  const end = cell === undefined ? cells.length : first + 4;
  for (let at = first; at < end; at++) sum[(at % 4) as 0 | 1 | 2 | 3] += cells[at] as number;
  return sum;
}

/** Return whether the map of a block needs the whole width of the page. */
export function isWide({ cells }: Pick<MapView, 'cells'>): boolean {
  return cells.length / 4 > MIN_WIDE_CELLS;
}

/** A drawing of a block, one square for each cell, that the pointer and the arrow keys explore. */
export class MemoryMap {
  readonly canvas: HTMLCanvasElement = document.createElement('canvas');
  readonly #frame: HTMLElement;
  readonly #block: MapView;
  readonly #cellCount: number;
  #columns = 1;
  /** Width and height of a cell and the gap after it, in pixels. */
  #pitch = 9;
  /** The cell that the keyboard has marked, or -1. */
  #marked = -1;

  /**
   * @param frame - The element that the canvas is put into; its width is the map's.
   * @param description - What the map shows, for readers who do not see it.
   */
  constructor(frame: HTMLElement, block: MapView, description: string) {
    const { canvas } = this;
    this.#frame = frame;
    this.#block = block;
    this.#cellCount = block.cells.length / 4;
    canvas.setAttribute('tabindex', '0');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `${description} Arrow keys move through the cells.`);
    canvas.addEventListener('keydown', (event) => this.#onKey(event));
    canvas.addEventListener('blur', () => {
      this.#marked = -1;
      this.#draw();
      hideTip();
    });
    explainUnderPointer(canvas, (x, y) => this.#describeAt(x, y));
    frame.append(canvas);
    keepDrawn(frame, () => this.#draw());
  }

  #draw(): void {
    const { canvas } = this;
    const width = Math.max(this.#frame.clientWidth, 80);
    // With a power of two, cells in one column have similar addresses.
    this.#columns = 2 ** Math.floor(Math.log2(width / (isWide(this.#block) ? 5 : 10)));
    this.#pitch = Math.min(12, width / this.#columns);
    const height = Math.ceil(this.#cellCount / this.#columns) * this.#pitch;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.setProperty('width', `${width}px`);
    canvas.style.setProperty('height', `${height}px`);
    const context = canvas.getContext('2d') as CanvasRenderingContext2D;
    context.scale(ratio, ratio);
    this.#drawCells(context);
    canvas.dataset.drawn = String(this.#cellCount);
    if (this.#marked < 0) return;
    const [x, y] = this.#cornerOf(this.#marked);
    context.strokeStyle = themeColour('ink');
    context.lineWidth = 1.5;
    context.strokeRect(x, y, this.#pitch - 1, this.#pitch - 1);
  }

  #drawCells(context: CanvasRenderingContext2D): void {
    const colours = ['resent', 'data', 'zero', 'absent'].map(themeColour);
    const size = this.#pitch - 1;
    for (let cell = 0; cell < this.#cellCount; cell++) {
      const [zero, data, resent, absent] = tallyPages(this.#block.cells, cell);
      const pages = zero + data + absent;
      const resentData = Math.min(resent, data);
      const [x, y] = this.#cornerOf(cell);
      let bottom = y + size;
      let left = size;
      [resent, data - resentData, zero - (resent - resentData), absent].forEach((part, at) => {
        if (part === 0) return;
        // A few pages that were sent must stay visible beside many that were not.
        const height = Math.min(left, Math.max((size * part) / pages, MIN_PART_HEIGHT));
        context.fillStyle = colours[at] as string;
        context.fillRect(x, bottom - height, size, height);
        bottom -= height;
        left -= height;
      });
    }
  }

  #cornerOf(cell: number): [x: number, y: number] {
    const row = Math.floor(cell / this.#columns);
    return [(cell % this.#columns) * this.#pitch, row * this.#pitch];
  }

  #describeAt(x: number, y: number): string[] | null {
    const column = Math.floor(x / this.#pitch);
    const cell = Math.floor(y / this.#pitch) * this.#columns + column;
    const isInside = column >= 0 && column < this.#columns && cell >= 0 && cell < this.#cellCount;
    return isInside ? this.#describe(cell) : null;
  }

  #describe(cell: number): string[] {
    const { cells, cellBytes, usedLength, labels } = this.#block;
    const [zero, data, resent, absent] = tallyPages(cells, cell).map(formatNumber);
    const first = cell * cellBytes;
    const last = Math.min(first + cellBytes, usedLength) - 1;
    return [
      `${formatHex(first)} – ${formatHex(last)}`,
      `data ${data} · zeros ${zero} · ${labels.resent} ${resent} · ${labels.absent} ${absent}`,
    ];
  }

  #onKey(event: KeyboardEvent): void {
    const marked = this.#marked;
    const targets = new Map([
      ['ArrowRight', marked + 1],
      ['ArrowLeft', marked - 1],
      ['ArrowDown', marked < 0 ? 0 : marked + this.#columns],
      ['ArrowUp', marked - this.#columns],
      ['Home', 0],
      ['End', this.#cellCount - 1],
    ]);
    const target = targets.get(event.key);
    if (target === undefined) return;
    event.preventDefault();
    this.#marked = Math.max(0, Math.min(target, this.#cellCount - 1));
    this.#draw();
    const { left, top } = this.canvas.getBoundingClientRect();
    const [x, y] = this.#cornerOf(this.#marked);
    showTip(this.#describe(this.#marked), left + x, top + y);
  }
}
