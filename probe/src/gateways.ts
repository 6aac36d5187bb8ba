/** The default gateway of each family, read from the kernel's routing tables as Linux shows them under /proc/net. */
import type { Gateways } from '@wanscope/shared';

const RTF_UP = 0x1;
const RTF_GATEWAY = 0x2;

/**
 * Default gateways; of several the one with the lowest metric. Families without one are absent, as is a link-local one of
 * IPv6, which means nothing without its interface.
 *
 * @param routes content of `/proc/net/route`: addresses as hexadecimal numbers in the machine's octet order.
 * @param routes6 content of `/proc/net/ipv6_route`.
 */
export function defaultGateways(routes: string, routes6: string, isLittleEndian: boolean): Gateways {
  const ipv4 = lowestMetric(
    routes.split('\n').flatMap((line) => {
      const [, destination, gateway = '', flags = '', , , metric, mask] = line.trim().split(/\s+/);
      if (destination !== '00000000' || mask !== '00000000' || !isGateway(flags)) return [];
      if (!/^[0-9A-F]{8}$/i.test(gateway)) return [];
      const octets = [...Buffer.from(gateway, 'hex')];
      return [{ address: (isLittleEndian ? octets.reverse() : octets).join('.'), metric: Number(metric) }];
    }),
  );
  const ipv6 = lowestMetric(
    routes6.split('\n').flatMap((line) => {
      const [destination, length, , , gateway = '', metric = '', , , flags = ''] = line.trim().split(/\s+/);
      if (destination !== '0'.repeat(32) || length !== '00' || !isGateway(flags)) return [];
      if (!/^[0-9a-f]{32}$/i.test(gateway) || /^fe[89ab]/i.test(gateway)) return [];
      const groups = gateway.match(/.{4}/g)!.join(':');
      const address = new URL(`http://[${groups}]/`).hostname.slice(1, -1);
      return [{ address, metric: parseInt(metric, 16) }];
    }),
  );
  return { ...(ipv4 === undefined ? {} : { ipv4 }), ...(ipv6 === undefined ? {} : { ipv6 }) };
}

function isGateway(flags: string): boolean {
  const bits = parseInt(flags, 16);
  return (bits & (RTF_UP | RTF_GATEWAY)) === (RTF_UP | RTF_GATEWAY);
}

function lowestMetric(routes: readonly { address: string; metric: number }[]): string | undefined {
  return routes.reduce<{ address: string; metric: number } | undefined>(
    (best, route) => (best === undefined || route.metric < best.metric ? route : best),
    undefined,
  )?.address;
}
