/**
 * A router's SNMP agent: system group, IF-MIB (RFC 2863), and of ENTITY-MIB (RFC 6933) and ENTITY-SENSOR-MIB (RFC 3433) what
 * tells the receive power of each interface. Read only.
 */
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:dgram';
import snmp, { type Mib, type Value } from 'net-snmp';
import type { InterfaceReading } from './interfaces.ts';

export interface AgentOptions {
  readonly name: string;
  readonly community: string;
  /** Bound; for both families. */
  readonly socket: Socket;
  /** Milliseconds since the router started. */
  readonly upMs: () => number;
  /** As of now. */
  readonly read: () => Promise<readonly InterfaceReading[]>;
  readonly say: (line: string) => void;
}

const IF_TYPE_ETHERNET = 6;
const UP = 1;
const DOWN = 2;
const TRUE = 1;
const FALSE = 2;
const PHYSICAL_CLASS = { chassis: 3, sensor: 8, module: 9 } as const;
/**
 * RFC 3433 ends at 12 and knows watts only. 14 is dBm in CISCO-ENTITY-SENSOR-MIB, whose numbers routers use here as well;
 * entPhySensorUnitsDisplay says it in words.
 */
const SENSOR_DBM = 14;
const SCALE_UNITS = 9;
/** Hundredths of a dBm. */
const SENSOR_PRECISION = 2;
const SENSOR_OK = 1;
const CHASSIS = 1;
const FIRST_MODULE = 1_000;
const FIRST_SENSOR = 2_000;
const NO_OID = '0.0';
const MAX_GAUGE = 2 ** 32 - 1;

type Kind = keyof typeof snmp.ObjectType;

interface Column<Row> {
  readonly number: number;
  readonly name: string;
  readonly kind: Kind;
  readonly value: (row: Row) => Value;
  /** An index that is no column of its own (MAX-ACCESS not-accessible). */
  readonly hidden?: boolean;
}

interface Table<Row> {
  readonly name: string;
  readonly oid: string;
  /** First column is the index, of this table or of the one that it extends. */
  readonly columns: readonly Column<Row>[];
  readonly rows: (interfaces: readonly InterfaceReading[]) => readonly Row[];
}

const counter32 = (value: number): number => value % 2 ** 32;
function counter64(value: number): Buffer {
  const octets = Buffer.alloc(8);
  octets.writeBigUInt64BE(BigInt(value));
  return octets;
}

const interfaces: Table<InterfaceReading> = {
  name: 'ifEntry',
  oid: '1.3.6.1.2.1.2.2.1',
  rows: (all) => all,
  columns: [
    { number: 1, name: 'ifIndex', kind: 'Integer', value: (row) => row.index },
    { number: 2, name: 'ifDescr', kind: 'OctetString', value: (row) => row.link },
    { number: 3, name: 'ifType', kind: 'Integer', value: () => IF_TYPE_ETHERNET },
    { number: 4, name: 'ifMtu', kind: 'Integer', value: (row) => row.mtu },
    { number: 5, name: 'ifSpeed', kind: 'Gauge', value: (row) => Math.min(row.bitsPerSecond, MAX_GAUGE) },
    { number: 6, name: 'ifPhysAddress', kind: 'OctetString', value: () => '' },
    { number: 7, name: 'ifAdminStatus', kind: 'Integer', value: () => UP },
    { number: 8, name: 'ifOperStatus', kind: 'Integer', value: (row) => (row.up ? UP : DOWN) },
    { number: 9, name: 'ifLastChange', kind: 'TimeTicks', value: () => 0 },
    { number: 10, name: 'ifInOctets', kind: 'Counter', value: (row) => counter32(row.inOctets) },
    { number: 11, name: 'ifInUcastPkts', kind: 'Counter', value: (row) => counter32(row.inPackets) },
    { number: 13, name: 'ifInDiscards', kind: 'Counter', value: (row) => counter32(row.inDiscards) },
    { number: 14, name: 'ifInErrors', kind: 'Counter', value: (row) => counter32(row.inErrors) },
    { number: 16, name: 'ifOutOctets', kind: 'Counter', value: (row) => counter32(row.outOctets) },
    { number: 17, name: 'ifOutUcastPkts', kind: 'Counter', value: (row) => counter32(row.outPackets) },
    { number: 19, name: 'ifOutDiscards', kind: 'Counter', value: (row) => counter32(row.outDiscards) },
    { number: 20, name: 'ifOutErrors', kind: 'Counter', value: () => 0 },
  ],
};

const interfacesMore: Table<InterfaceReading> = {
  name: 'ifXEntry',
  oid: '1.3.6.1.2.1.31.1.1.1',
  rows: (all) => all,
  columns: [
    { number: 0, name: 'ifIndex', kind: 'Integer', value: (row) => row.index, hidden: true },
    { number: 1, name: 'ifName', kind: 'OctetString', value: (row) => row.link },
    { number: 6, name: 'ifHCInOctets', kind: 'Counter64', value: (row) => counter64(row.inOctets) },
    { number: 7, name: 'ifHCInUcastPkts', kind: 'Counter64', value: (row) => counter64(row.inPackets) },
    { number: 10, name: 'ifHCOutOctets', kind: 'Counter64', value: (row) => counter64(row.outOctets) },
    { number: 11, name: 'ifHCOutUcastPkts', kind: 'Counter64', value: (row) => counter64(row.outPackets) },
    { number: 15, name: 'ifHighSpeed', kind: 'Gauge', value: (row) => Math.round(row.bitsPerSecond / 1e6) },
    { number: 16, name: 'ifPromiscuousMode', kind: 'Integer', value: () => FALSE },
    { number: 17, name: 'ifConnectorPresent', kind: 'Integer', value: () => TRUE },
    { number: 18, name: 'ifAlias', kind: 'OctetString', value: (row) => row.link },
    { number: 19, name: 'ifCounterDiscontinuityTime', kind: 'TimeTicks', value: () => 0 },
  ],
};

interface Part {
  readonly index: number;
  readonly name: string;
  readonly within: number;
  readonly partClass: number;
  readonly position: number;
}

/** A chassis, in it a module for each interface, in it the sensor of its receiver. */
function partsOf(all: readonly InterfaceReading[]): Part[] {
  const { chassis, module, sensor } = PHYSICAL_CLASS;
  return [
    { index: CHASSIS, name: 'router', within: 0, partClass: chassis, position: -1 },
    ...all.map(({ index, link }, at) => ({
      ...{ index: FIRST_MODULE + index, name: link, within: CHASSIS, partClass: module, position: at + 1 },
    })),
    ...all.map(({ index, link }) => ({
      ...{ index: FIRST_SENSOR + index, name: `${link} receive power`, within: FIRST_MODULE + index },
      ...{ partClass: sensor, position: 1 },
    })),
  ];
}

const parts: Table<Part> = {
  name: 'entPhysicalEntry',
  oid: '1.3.6.1.2.1.47.1.1.1.1',
  rows: partsOf,
  columns: [
    { number: 1, name: 'entPhysicalIndex', kind: 'Integer', value: (row) => row.index, hidden: true },
    { number: 2, name: 'entPhysicalDescr', kind: 'OctetString', value: (row) => row.name },
    { number: 3, name: 'entPhysicalVendorType', kind: 'OID', value: () => NO_OID },
    { number: 4, name: 'entPhysicalContainedIn', kind: 'Integer', value: (row) => row.within },
    { number: 5, name: 'entPhysicalClass', kind: 'Integer', value: (row) => row.partClass },
    { number: 6, name: 'entPhysicalParentRelPos', kind: 'Integer', value: (row) => row.position },
    { number: 7, name: 'entPhysicalName', kind: 'OctetString', value: (row) => row.name },
  ],
};

const sensors: Table<InterfaceReading> = {
  name: 'entPhySensorEntry',
  oid: '1.3.6.1.2.1.99.1.1.1',
  rows: (all) => all,
  columns: [
    { number: 0, name: 'entPhysicalIndex', kind: 'Integer', value: (row) => FIRST_SENSOR + row.index, hidden: true },
    { number: 1, name: 'entPhySensorType', kind: 'Integer', value: () => SENSOR_DBM },
    { number: 2, name: 'entPhySensorScale', kind: 'Integer', value: () => SCALE_UNITS },
    { number: 3, name: 'entPhySensorPrecision', kind: 'Integer', value: () => SENSOR_PRECISION },
    {
      number: 4,
      name: 'entPhySensorValue',
      kind: 'Integer',
      value: (row) => Math.round(row.receivePowerDbm * 10 ** SENSOR_PRECISION),
    },
    { number: 5, name: 'entPhySensorOperStatus', kind: 'Integer', value: () => SENSOR_OK },
    { number: 6, name: 'entPhySensorUnitsDisplay', kind: 'OctetString', value: () => 'dBm' },
    { number: 7, name: 'entPhySensorValueTimeStamp', kind: 'TimeTicks', value: () => 0 },
    { number: 8, name: 'entPhySensorValueUpdateRate', kind: 'Gauge', value: () => 0 },
  ],
};

/** Answers on the socket until the process ends; every answer is of the moment of its question. */
export async function startAgent(options: AgentOptions): Promise<void> {
  const { name, community, socket, upMs, read, say } = options;
  const questions = new Questions(socket, async () => refresh(await read()));
  const agent = snmp.createAgent({ transport: 'udp6', dgramModule: { createSocket: () => questions } }, (error) => {
    if (error !== null) say(`${name}: ${error.message}`);
  });
  agent.getAuthorizer().addCommunity(community);
  const mib = agent.getMib();
  const first = await read();
  const scalar = (scalarName: string, oid: string, kind: Kind, value: Value): void => {
    const scalarType = snmp.ObjectType[kind];
    const maxAccess = snmp.MaxAccess['read-only'];
    mib.registerProvider({ name: scalarName, type: snmp.MibProviderType.Scalar, oid, scalarType, maxAccess });
    mib.setScalarValue(scalarName, value);
  };
  scalar('sysDescr', '1.3.6.1.2.1.1.1', 'OctetString', 'router of the wanscope lab');
  scalar('sysObjectID', '1.3.6.1.2.1.1.2', 'OID', NO_OID);
  scalar('sysUpTime', '1.3.6.1.2.1.1.3', 'TimeTicks', 0);
  scalar('sysName', '1.3.6.1.2.1.1.5', 'OctetString', name);
  scalar('ifNumber', '1.3.6.1.2.1.2.1', 'Integer', first.length);
  const tables: readonly Filler[] = [
    addTable(mib, interfaces, first),
    addTable(mib, interfacesMore, first, interfaces.name),
    addTable(mib, parts, first),
    addTable(mib, sensors, first, parts.name),
  ];
  function refresh(readings: readonly InterfaceReading[]): void {
    mib.setScalarValue('sysUpTime', Math.floor(upMs() / 10));
    for (const fill of tables) fill(readings);
  }
}

type Filler = (interfaces: readonly InterfaceReading[]) => void;

/** Registers a table with its rows, which stay the same for ever; returns what renews their values. */
function addTable<Row>(mib: Mib, table: Table<Row>, first: readonly InterfaceReading[], extended?: string): Filler {
  const [index, ...rest] = table.columns as [Column<Row>, ...Column<Row>[]];
  const own = extended === undefined ? table.columns : rest;
  mib.registerProvider({
    name: table.name,
    type: snmp.MibProviderType.Table,
    oid: table.oid,
    maxAccess: snmp.MaxAccess['not-accessible'],
    tableColumns: own.map(({ number, name, kind, hidden }) => ({
      number,
      name,
      type: snmp.ObjectType[kind],
      maxAccess: snmp.MaxAccess[hidden === true ? 'not-accessible' : 'read-only'],
    })),
    tableIndex: [
      extended === undefined
        ? { columnName: index.name, columnNumber: index.number, type: snmp.ObjectType[index.kind] }
        : { columnName: index.name, columnNumber: 1, type: snmp.ObjectType[index.kind], foreign: extended },
    ],
  });
  for (const row of table.rows(first)) {
    mib.addTableRow(
      table.name,
      table.columns.map(({ value }) => value(row)),
    );
  }
  return (readings) => {
    for (const row of table.rows(readings)) {
      const at = [index.value(row) as number];
      for (const { number, value } of rest) mib.setTableSingleCell(table.name, number, at, value(row));
    }
  };
}

/** A socket as `net-snmp` uses it, already bound; each question waits until the values are fresh. */
class Questions extends EventEmitter {
  readonly #socket: Socket;

  constructor(socket: Socket, refresh: () => Promise<void>) {
    super();
    this.#socket = socket;
    socket.on('message', (message, from) => {
      // Without values the question stays unanswered, as on a router that is too busy.
      refresh().then(
        () => this.emit('message', message, from),
        () => undefined,
      );
    });
    socket.on('error', (error) => this.emit('error', error));
  }

  bind(): void {
    // Bound where it was opened.
  }

  send(...args: Parameters<Socket['send']>): void {
    this.#socket.send(...args);
  }

  address(): ReturnType<Socket['address']> {
    return this.#socket.address();
  }

  close(): void {
    this.#socket.close();
  }
}
