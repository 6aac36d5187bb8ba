/**
 * Common targets beyond the mesh: public resolvers and services that many branches use. A target with a template needs
 * nothing else; what it says itself goes first.
 */
import type { Protocol } from '../path.ts';

export interface TargetTemplate {
  readonly about: string;
  readonly host?: string;
  readonly url?: string;
  /** Name and protocol of the test that measures it where the target names none; made where there is none of that name. */
  readonly test: { readonly name: string; readonly protocol: Extract<Protocol, 'dns' | 'http'> };
}

const resolver = (about: string, host: string): TargetTemplate => ({
  about,
  host,
  test: { name: 'dns', protocol: 'dns' },
});
const service = (about: string, url: string): TargetTemplate => ({
  about,
  url,
  test: { name: 'web', protocol: 'http' },
});

export const TARGET_TEMPLATES = {
  'dns-cloudflare': resolver('Public resolver of Cloudflare', '1.1.1.1'),
  'dns-google': resolver('Public resolver of Google', '8.8.8.8'),
  'dns-quad9': resolver('Public resolver of Quad9', '9.9.9.9'),
  'dns-opendns': resolver('Public resolver of Cisco OpenDNS', '208.67.222.222'),
  'microsoft-365': service('Mail and office of Microsoft 365', 'https://outlook.office365.com/'),
  'microsoft-teams': service('Microsoft Teams', 'https://teams.microsoft.com/'),
  'google-workspace': service('Mail and documents of Google', 'https://mail.google.com/'),
  zoom: service('Zoom', 'https://zoom.us/'),
  webex: service('Cisco Webex', 'https://www.webex.com/'),
  slack: service('Slack', 'https://slack.com/'),
  salesforce: service('Salesforce', 'https://login.salesforce.com/'),
  github: service('GitHub', 'https://github.com/'),
} as const satisfies Readonly<Record<string, TargetTemplate>>;
export type TemplateName = keyof typeof TARGET_TEMPLATES;
export const TEMPLATE_NAMES = Object.keys(TARGET_TEMPLATES) as [TemplateName, ...TemplateName[]];

/** What the test of a resolver asks where nothing else is said: a name reserved for examples, which always exists (RFC 2606). */
export const TEMPLATE_QUESTION = { name: 'example.com', type: 'A' } as const;
