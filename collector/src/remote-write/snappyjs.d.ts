declare module 'snappyjs' {
  /** Snappy's block format. */
  export function compress(bytes: Uint8Array): Uint8Array;
  /** @throws when the octets are not in Snappy's block format. */
  export function uncompress(bytes: Uint8Array, maxLength?: number): Uint8Array;
}
