//! Writes `docs/metrics.md` from the catalogue.

use std::fmt::Write;

use crate::metrics::catalogue::CATALOGUE;
use crate::reference::assert_document;

const HEAD: &str = "\
# Metrics

`GET /metrics` on the HTTP listener (127.0.0.1:9291 unless configured otherwise) answers in
Prometheus' text format. This page is generated from the code; a test holds it against a running
broker.

Series of a topic or a partition exist for as long as it does. Counters start again from 0 with the
process. `strandline_request_errors_total` has a series once its error has happened.

";

const QUERIES: &str = "
## Queries

| question | query |
|---|---|
| how much comes in, by topic | `sum by (topic) (rate(strandline_topic_bytes_in_total[1m]))` |
| where a slow produce spends its time | `histogram_quantile(0.99, sum by (le, phase) \
(rate(strandline_request_phase_seconds_bucket{api=\"Produce\"}[1m])))` |
| how long the disk takes to sync | `rate(strandline_log_flush_seconds_sum[1m]) / \
rate(strandline_log_flush_seconds_count[1m])` |
| which requests fail, and why | \
`sum by (api, code) (rate(strandline_request_errors_total[5m])) > 0` |
| is there exactly one controller | `sum(strandline_controller_active) == 1` |
| does somebody lead every partition | `max(strandline_partitions_without_leader) == 0` |
| does a partition lack a replica | `max(strandline_partitions_under_replicated) > 0` |
| is a partition closed to acks=all | `max(strandline_partitions_under_min_isr) > 0` |
| which follower is behind, and how far | `strandline_replica_lag_seconds > 1` |
| do replicas fall out of sync and come back | `rate(strandline_isr_shrinks_total[10m]) > 0` |
| how much replication adds to the network | \
`sum(rate(strandline_replication_served_bytes_total[1m]))` |
| is a broker missing | `max(strandline_brokers{state=\"fenced\"}) > 0` |
| does the metadata quorum change its leader often | \
`changes(strandline_controller_epoch[10m]) > 3` |
| has a disk failed | `strandline_directory_online == 0` |
| are clients held back by memory | `strandline_memory_in_flight_bytes / \
strandline_memory_in_flight_limit_bytes > 0.9` |
";

#[test]
fn the_reference_page_is_up_to_date() {
    let mut page = HEAD.to_owned();
    page.push_str("| name | kind | unit | labels | what it tells |\n|---|---|---|---|---|\n");
    for metric in CATALOGUE {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            metric.unit,
            labels.join(", "),
            metric.help
        );
    }
    page.push_str(QUERIES);
    assert_document("docs/metrics.md", &page);
}
