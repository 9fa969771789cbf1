/** The model server behind real sockets. */

import type { AddressInfo } from 'node:net';
import { type RawData, type WebSocket, WebSocketServer } from 'ws';
import { Link, Server } from './server.js';

export class Served {
  server = new Server();
  sockets = new Map<WebSocket, Link>();
  /** Handle what comes. */
  handling = true;
  errors: unknown[] = [];
  private constructor(private wss: WebSocketServer) {}

  static async start(): Promise<Served> {
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: (offered) => (offered.has('lifeline.v1') ? 'lifeline.v1' : false) });
    await new Promise((resolve) => wss.once('listening', resolve));
    const served = new Served(wss);
    wss.on('connection', (socket) => served.#serve(socket));
    return served;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.wss.address() as AddressInfo).port}`;
  }

  get handled(): string[] {
    return this.server.handled.map(({ data }) => (typeof data === 'string' ? data : `[${data.join()}]`));
  }

  #serve(socket: WebSocket): void {
    const link = this.server.connect();
    this.sockets.set(socket, link);
    socket.on('message', (data: RawData, binary) => {
      try {
        const bytes = data as Buffer;
        this.server.message(link, binary ? new Uint8Array(bytes) : bytes.toString());
      } catch (error) {
        this.errors.push(error);
        socket.close(1011, String(error));
      }
      this.pump();
    });
    socket.on('close', () => {
      this.sockets.delete(socket);
      this.server.lost(link);
    });
  }

  pump(): void {
    while (this.handling && this.server.handle());
    for (const [socket, link] of this.sockets) {
      for (const data of link.out.splice(0)) socket.send(data);
      if (link.closed !== undefined && link.closed !== 1006) socket.close(link.closed);
    }
  }

  broadcast(data: string): void {
    this.server.broadcast(data);
    this.pump();
  }

  cut(): void {
    for (const socket of this.sockets.keys()) socket.terminate();
  }

  stop(): void {
    this.cut();
    this.wss.close();
  }
}

/** Waits until it is so. */
export async function until(condition: () => unknown, what = condition.toString(), ms = 10_000): Promise<void> {
  const end = Date.now() + ms;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
