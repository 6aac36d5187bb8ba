import { InvalidConfiguration } from '../errors.ts';
import type { OperatorConfig } from './schema.ts';
export function parseOperatorConfig(_text: string, _fileName: string): OperatorConfig {
  throw new InvalidConfiguration(['not yet']);
}
