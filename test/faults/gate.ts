/** The way between one client and the broker: passes octets on, shows them to whoever aims at them, ends or holds them. */
import { connect, createServer, type Server, type Socket } from 'node:net';

export type Direction = 'up' | 'down';
/** Sees octets before they are passed on; true: they are dropped, and so is everything after them in that direction. */
export type Watcher = (direction: Direction, octets: Buffer) => boolean;

interface Way {
  readonly client: Socket;
  readonly broker: Socket;
  readonly dropped: Record<Direction, boolean>;
}

export class Gate {
  readonly #server: Server;
  readonly #brokerPort: number;
  readonly #ways = new Set<Way>();
  readonly #watchers = new Set<Watcher>();
  #isCut = false;
  #isHeld = false;

  constructor(brokerPort: number) {
    this.#brokerPort = brokerPort;
    this.#server = createServer((client) => this.#open(client));
  }

  async listen(port: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(port, '127.0.0.1', resolve);
    });
  }

  /** Ends every connection and refuses new ones until `open`. */
  cut(): void {
    this.#isCut = true;
    this.drop();
  }

  /** Passes nothing on and tells nobody. */
  hold(): void {
    this.#isHeld = true;
    for (const { client, broker } of this.#ways) {
      client.pause();
      broker.pause();
    }
  }

  open(): void {
    this.#isCut = false;
    this.#isHeld = false;
    for (const { client, broker } of this.#ways) {
      client.resume();
      broker.resume();
    }
  }

  /** Ends every connection. */
  drop(): void {
    for (const { client, broker } of this.#ways) {
      client.destroy();
      broker.destroy();
    }
    this.#ways.clear();
  }

  /** @returns takes it away again. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  close(): void {
    this.#server.close();
    this.drop();
  }

  #open(client: Socket): void {
    if (this.#isCut) {
      client.destroy();
      return;
    }
    const way: Way = {
      client,
      broker: connect(this.#brokerPort, '127.0.0.1'),
      dropped: { up: false, down: false },
    };
    this.#ways.add(way);
    this.#pass(way, 'up', client, way.broker);
    this.#pass(way, 'down', way.broker, client);
    if (!this.#isHeld) return;
    client.pause();
    way.broker.pause();
  }

  #pass(way: Way, direction: Direction, from: Socket, to: Socket): void {
    from.on('data', (octets) => {
      for (const watcher of [...this.#watchers]) if (watcher(direction, octets)) way.dropped[direction] = true;
      if (!way.dropped[direction]) to.write(octets);
    });
    const end = (): void => {
      this.#ways.delete(way);
      from.destroy();
      to.destroy();
    };
    from.on('end', end);
    from.on('close', end);
    from.on('error', end);
  }
}
