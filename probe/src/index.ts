/** The probe as a library, for the lab and for tests. The program is `main.ts`. */
export { detectAddresses, endpointsOf, parseAddresses, parseReflect } from './addresses.ts';
export type { LocalAddress, ReflectPorts } from './addresses.ts';
export { Agent } from './agent.ts';
export type { AgentOptions, AgentState } from './agent.ts';
export { BusError } from './bus.ts';
export type { Bus } from './bus.ts';
export { credentialsOf, openPrivileged, startProbe } from './compose.ts';
export type { PrivilegedSockets, ProbeEdges, RunningProbe } from './compose.ts';
export { readSettings, SETTINGS } from './config.ts';
export type { Flags, Invocation, Settings } from './config.ts';
export { readFlags } from './flags.ts';
export type { CommandLine } from './flags.ts';
export type { Log } from './log.ts';
export { SELF_METRICS } from './self-metrics.ts';
export type { SelfMetric } from './self-metrics.ts';
