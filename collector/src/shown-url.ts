/** A URL as it may be shown: user name, password, query and fragment may be secrets. */
export function shownUrl(url: string): string {
  const { origin, pathname, search } = new URL(url);
  return `${origin}${pathname}${search === '' ? '' : '?***'}`;
}
