/** Names that the lab and its equipment agree on. */

/** Appears in the lab's directory when every agent and service answers. */
export const READY_FILE = 'equipment.ready';
export const SNMP_PORT = 161;
export const SERVICE_PORT = 8_080;
