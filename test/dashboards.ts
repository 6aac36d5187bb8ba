/** What the tests read out of a dashboard file. */

interface Panel {
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

export interface DashboardQuery {
  readonly panel: string;
  readonly expression: string;
}

export function dashboardQueries(board: unknown): DashboardQuery[] {
  const { panels } = board as { panels: readonly Panel[] };
  return panels.flatMap(({ title, targets }) =>
    (targets ?? []).map(({ expr }) => ({ panel: title, expression: expr })),
  );
}

/** The expression as Grafana would send it: named variables get their value, all others match everything. */
export function withVariables(expression: string, values: Readonly<Record<string, string>>): string {
  return expression.replace(/\$\{?(\w+)\}?/g, (_all, name: string) => values[name] ?? '.*');
}
