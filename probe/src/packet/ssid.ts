/**
 * SSIDs (RFC 8972 section 3) in classes: a sender takes one whose class tells a reflector which few of its peers it may be.
 * Arithmetic only.
 */
import { createHash } from 'node:crypto';
import { formatIdentity, type Identity } from '@wanscope/shared';

/** SSIDs of a class are its number, 1 to this, and every so many more. */
export const SSID_CLASSES = 251;
export const SSIDS_OF_CLASS = Math.floor(0xffff / SSID_CLASSES);

/** Of the SSIDs that a sender uses towards a reflector. */
export function ssidClassOf(sender: Identity, reflector: Identity): number {
  const digest = createHash('sha256')
    .update(`${formatIdentity(sender)}\n${formatIdentity(reflector)}`)
    .digest();
  return 1 + (digest.readUInt32BE(0) % SSID_CLASSES);
}

/** @returns undefined for 0, which is no SSID. */
export function classOfSsid(ssid: number): number | undefined {
  return ssid === 0 ? undefined : ((ssid - 1) % SSID_CLASSES) + 1;
}
