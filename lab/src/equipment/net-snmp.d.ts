/** What the lab uses of `net-snmp`, which has no types of its own. */
declare module 'net-snmp' {
  type Value = string | number | Buffer;

  /** Values by object identifier, kept for an agent to answer from. */
  interface Mib {
    registerProvider(provider: object): void;
    addTableRow(table: string, row: readonly Value[]): void;
    setTableSingleCell(table: string, column: number, index: readonly number[], value: Value): void;
    setScalarValue(name: string, value: Value): void;
  }

  interface Agent {
    getMib(): Mib;
    getAuthorizer(): { addCommunity(community: string): void };
  }

  interface AgentOptions {
    readonly transport: 'udp4' | 'udp6';
    /** Stands in for `node:dgram`. */
    readonly dgramModule: { createSocket(): object };
  }

  const snmp: {
    createAgent(options: AgentOptions, callback: (error: Error | null) => void): Agent;
    readonly ObjectType: Readonly<
      Record<'Integer' | 'OctetString' | 'OID' | 'Counter' | 'Gauge' | 'TimeTicks' | 'Counter64', number>
    >;
    readonly MaxAccess: Readonly<Record<'not-accessible' | 'read-only', number>>;
    readonly MibProviderType: Readonly<Record<'Scalar' | 'Table', number>>;
  };
  export { snmp as default, type Agent, type Mib, type Value };
}
