/** The port through which echoes leave and arrive, so that everything above it runs without privileges in tests. */
import type { Family } from '@wanscope/shared';

export interface IcmpSend {
  readonly destination: string;
  /** Source address; the system's choice when undefined. */
  readonly source: string | undefined;
  readonly dscp: number;
  /** Octets of the ICMP message. */
  readonly length: number;
  /** Fills the message at the moment it is handed to the system. The buffer is valid during the call only. */
  prepare(message: Buffer): void;
  /** The system did not take it. */
  failed(error: Error): void;
}

export interface IcmpSocket {
  readonly family: Family;
  send(request: IcmpSend): void;
  /** `message` starts at the ICMP header and is valid during the call only. */
  onMessage(listener: (message: Buffer, from: string) => void): void;
  close(): void;
}
