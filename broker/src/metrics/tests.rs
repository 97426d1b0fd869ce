//! What a scrape shows after known observations.

use std::collections::BTreeSet;

use strandline_protocol::ids::{BrokerId, LeaderEpoch, Offset, PartitionId};

use super::*;

fn sample<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[test]
fn handles_show_in_the_scrape() {
    let metrics = Metrics::new();
    let produce = metrics.api(ApiKey::Produce);
    produce.requests.increment(3);
    produce.local.record(Duration::from_micros(300));
    metrics.error(ApiKey::Produce, ErrorCode::DISK_FULL);
    metrics.native.refused(Refusal::Slow);
    let open = metrics.native.accepted();
    metrics
        .directory(Path::new("/data"))
        .flush
        .record(Duration::from_millis(2));

    let text = metrics.render();
    for (series, value) in [
        (r#"strandline_requests_total{api="Produce"}"#, "3"),
        (r#"strandline_requests_total{api="Fetch"}"#, "0"),
        (
            r#"strandline_request_errors_total{api="Produce",code="DISK_FULL"}"#,
            "1",
        ),
        (
            r#"strandline_request_phase_seconds_bucket{api="Produce",phase="local",le="0.00025"}"#,
            "0",
        ),
        (
            r#"strandline_request_phase_seconds_bucket{api="Produce",phase="local",le="0.0005"}"#,
            "1",
        ),
        (r#"strandline_connections{listener="native"}"#, "1"),
        (
            r#"strandline_connections_refused_total{listener="native",reason="slow"}"#,
            "1",
        ),
        (
            r#"strandline_log_flush_seconds_count{directory="/data"}"#,
            "1",
        ),
    ] {
        assert_eq!(sample(&text, series), Some(value), "{series}\n{text}");
    }
    drop(open);
    let text = metrics.render();
    assert_eq!(
        sample(&text, r#"strandline_connections{listener="native"}"#),
        Some("0")
    );
}

#[test]
fn series_of_a_topic_vanish_with_its_last_holder() {
    let metrics = Metrics::new();
    let series = r#"strandline_topic_bytes_in_total{topic="tides"}"#;
    let first = metrics.topic("tides");
    let second = metrics.topic("tides");
    first.appended(70, 2);
    second.appended(30, 1);
    drop(first);
    assert_eq!(sample(&metrics.render(), series), Some("100"));
    drop(second);
    assert_eq!(sample(&metrics.render(), series), None);
    let _again = metrics.topic("tides");
    assert_eq!(sample(&metrics.render(), series), Some("0"));
}

#[test]
fn two_brokers_in_one_process_do_not_mix() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.api(ApiKey::Fetch).requests.increment(1);
    let series = r#"strandline_requests_total{api="Fetch"}"#;
    assert_eq!(sample(&one.render(), series), Some("1"));
    assert_eq!(sample(&other.render(), series), Some("0"));
}

#[tokio::test]
async fn a_scrape_has_the_names_of_the_catalogue_and_no_others() {
    let metrics = Metrics::new();
    let _topic = metrics.topic("tides");
    metrics.error(ApiKey::Fetch, ErrorCode::CORRUPT);
    let _directory = metrics.directory(Path::new("/data"));
    metrics.collect_with(|scrape| {
        scrape.memory(1, 2);
        scrape.partitions("open", 3);
        scrape.cluster(ClusterFigures {
            role: QuorumRole::Voter,
            controller_epoch: LeaderEpoch(5),
            voters: 3,
            log_end: Offset(12),
            committed: Offset(11),
            lag: 1,
            brokers: [2, 1, 0],
            leaderless: 4,
            under_replicated: 3,
            under_min_isr: 2,
            lease: LeaseFigures::default(),
        });
        let online = DirectoryFigures {
            online: true,
            free_bytes: Some(1),
        };
        scrape.directory("/data", online);
        let figures = PartitionFigures {
            log_start: Offset(1),
            log_end: Offset(9),
            high_watermark: Offset(8),
            bytes: 4_000,
            segments: 2,
        };
        scrape.partition("tides", PartitionId(0), figures);
        scrape.replicas(ReplicaRole::Leader, 1);
        let follower = ReplicaFigures {
            follower: BrokerId(2),
            lag_records: 3,
            behind: Some(Duration::from_millis(250)),
        };
        scrape.followers("tides", PartitionId(0), &[follower]);
    });
    let text = metrics.render();
    let scraped: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let listed = CATALOGUE
        .iter()
        .map(|metric| (metric.name, metric.kind.name()))
        .collect();
    assert_eq!(scraped, listed);
    if let Some(path) = std::env::var_os("SCRAPE_TO") {
        std::fs::write(path, &text).unwrap();
    }
}
