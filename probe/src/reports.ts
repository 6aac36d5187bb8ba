/** Closed intervals as messages: one report, or several where one would be larger than a message may be. */
import {
  encodeReport,
  encodeReportJson,
  MAX_BODY_BYTES,
  RejectedMessage,
  type PathRecord,
  type Report,
} from '@wanscope/shared';

export type ReportFormat = 'binary' | 'json';

export interface EncodedReport {
  readonly report: Report;
  readonly bytes: Uint8Array;
}

/**
 * Encodes the records of one interval under one dictionary. `make` builds a report with the next sequence number, which
 * `taken` says is used up. Records that name a plan index twice (a session replaced during the interval) and records
 * beyond the size of one message go to further reports.
 */
export function encodeInterval(
  records: readonly PathRecord[],
  format: ReportFormat,
  make: (records: readonly PathRecord[]) => Report,
  taken: () => void,
): EncodedReport[] {
  const encoded: EncodedReport[] = [];
  let rest: readonly PathRecord[] = records;
  do {
    const distinct: PathRecord[] = [];
    const repeated: PathRecord[] = [];
    const seen = new Set<number>();
    for (const record of rest) {
      (seen.has(record.index) ? repeated : distinct).push(record);
      seen.add(record.index);
    }
    distinct.sort((a, b) => a.index - b.index);
    encodeSplit(distinct, format, make, taken, encoded);
    rest = repeated;
  } while (rest.length > 0);
  return encoded;
}

function encodeSplit(
  records: readonly PathRecord[],
  format: ReportFormat,
  make: (records: readonly PathRecord[]) => Report,
  taken: () => void,
  encoded: EncodedReport[],
): void {
  const report = make(records);
  const bytes = tryEncode(report, format);
  if (bytes !== undefined) {
    encoded.push({ report, bytes });
    taken();
    return;
  }
  if (records.length < 2) throw new Error(`record ${String(records[0]?.index)} does not fit in one message`);
  const half = records.length >> 1;
  encodeSplit(records.slice(0, half), format, make, taken, encoded);
  encodeSplit(records.slice(half), format, make, taken, encoded);
}

/** Undefined when the report is too large. */
function tryEncode(report: Report, format: ReportFormat): Uint8Array | undefined {
  try {
    const bytes = format === 'json' ? encodeReportJson(report) : encodeReport(report);
    return bytes.length > MAX_BODY_BYTES ? undefined : bytes;
  } catch (error) {
    if (error instanceof RejectedMessage && error.rejectCause === 'too_large') return undefined;
    throw error;
  }
}
