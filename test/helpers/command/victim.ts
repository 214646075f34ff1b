import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type net from 'node:net';
import { onProcessEnd } from '../cleanup.ts';
import { until } from '../until.ts';

/** A process that plays one end of a migration up to some byte, and then waits to be killed. */
export class Victim implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #withdraw: () => void;
  #said = '';

  constructor(script: string, args: readonly string[]) {
    this.#child = spawn(process.execPath, ['-e', script, ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#withdraw = onProcessEnd(() => this.#child.kill('SIGKILL'));
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#said += text;
    });
  }

  /** Wait until the process prints a word; return the rest of that line. */
  async says(word: string): Promise<string> {
    const line = new RegExp(`^${word} ?(.*)\n`, 'm');
    const [, rest = ''] = await until(() => line.exec(this.#said) ?? undefined, {
      what: `a process to say "${word}"`,
    });
    return rest;
  }

  /** Kill it as a crash does: the system closes its descriptors. */
  async kill(): Promise<void> {
    this.#withdraw();
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

/** Send the first bytes of a file to a listener; print `sent`. */
export function sender(to: net.NetConnectOpts, file: string, bytes: number): Victim {
  const script = `
    const [to, file, bytes] = process.argv.slice(1);
    const socket = require('net').connect(JSON.parse(to), () => {
      const start = require('fs').readFileSync(file).subarray(0, Number(bytes));
      socket.write(start, () => console.log('sent'));
    });
    socket.on('error', () => {});
    setInterval(() => {}, 1e6);`;
  return new Victim(script, [JSON.stringify(to), file, String(bytes)]);
}

/** Listen, print `listens PORT`, read exactly `bytes` bytes, and print `got`. */
export function receiver(at: net.ListenOptions, bytes: number): Victim {
  const script = `
    const [at, bytes] = process.argv.slice(1);
    let got = 0;
    const server = require('net').createServer((socket) => {
      socket.on('error', () => {});
      if (Number(bytes) === 0) return console.log('got');
      socket.on('data', (chunk) => {
        got += chunk.length;
        if (got < Number(bytes)) return;
        socket.pause();
        console.log('got');
      });
    });
    server.listen(JSON.parse(at), () => console.log('listens', server.address().port ?? 0));`;
  return new Victim(script, [JSON.stringify(at), String(bytes)]);
}
