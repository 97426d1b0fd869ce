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
    assert_document("docs/metrics.md", &page);
}
