/** A variable of the environment. An empty one counts as not set: a compose file or a unit cannot leave one out. */
export function variable(env: Readonly<Record<string, string | undefined>>, name: string): string | undefined {
  const value = env[name];
  return value === '' ? undefined : value;
}
