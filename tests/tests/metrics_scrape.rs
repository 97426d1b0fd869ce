//! A scrape of a running broker says what was sent to it, by the names of the catalogue.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::float_cmp,
    missing_docs
)]

use std::collections::BTreeSet;

use strandline_broker::{metrics::catalogue::CATALOGUE, server::Server, settings::Settings};
use strandline_tests::{
    scrape::{Scraped, delete_topic, make_traffic},
    wait_until,
};

const RECORDS: u32 = 10_000;
const TOPIC: &str = r#"topic="tides""#;

fn settings(directory: &tempfile::TempDir) -> Settings {
    Settings::with(&[
        ("data", directory.path().to_str().unwrap()),
        ("listen", "127.0.0.1:0"),
        ("http", "127.0.0.1:0"),
    ])
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_says_what_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(settings(&directory)).await.unwrap();
    let broker = server.native_addr().to_string();
    let http = server.http_addr().unwrap();
    let traffic = make_traffic(&broker, "tides", RECORDS).await.unwrap();
    assert_eq!(traffic.received, RECORDS);
    let (scraped, broker) = tokio::task::spawn_blocking(move || {
        // The sending of an answer is counted after the client may have read it.
        wait_until("every answer is counted as sent", || {
            let scraped = Scraped::of(http);
            observed(&scraped, "send") == observed(&scraped, "local")
        });
        let scraped = Scraped::of(http);
        check_traffic(&scraped);
        (scraped, broker)
    })
    .await
    .unwrap();
    check_names(&scraped);

    delete_topic(&broker, "tides").await.unwrap();
    tokio::task::spawn_blocking(move || {
        wait_until("the topic's series vanish", || {
            !Scraped::of(http).text.contains(TOPIC)
        });
    })
    .await
    .unwrap();
    server.shutdown().await.unwrap();
}

fn check_traffic(scraped: &Scraped) {
    let text = scraped.without_buckets();
    let sum = |name: &str| scraped.sum(name, TOPIC);
    let records = f64::from(RECORDS);
    for name in [
        "strandline_topic_records_in_total",
        "strandline_topic_records_out_total",
        "strandline_partition_log_end_offset",
        "strandline_partition_high_watermark",
    ] {
        assert_eq!(sum(name), records, "{name}\n{text}");
    }
    assert_eq!(sum("strandline_partition_log_start_offset"), 0.0, "{text}");
    assert_eq!(sum("strandline_partition_segments"), 2.0, "{text}");
    let stored = sum("strandline_partition_size_bytes");
    assert!(stored > records * 10.0, "{text}");
    assert_eq!(sum("strandline_topic_bytes_in_total"), stored, "{text}");
    assert_eq!(sum("strandline_topic_bytes_out_total"), stored, "{text}");
    let batches = scraped.value("strandline_produce_batch_bytes_sum");
    assert_eq!(batches, Some(stored), "{text}");

    let total = |api: &str| scraped.sum("strandline_requests_total", &format!("api=\"{api}\""));
    assert_eq!(total("CreateTopics"), 1.0, "{text}");
    assert_eq!(total("DeleteTopics"), 1.0, "{text}");
    let produced = total("Produce");
    assert!(produced >= 1.0, "{text}");
    for phase in ["queue", "local", "wait", "send"] {
        assert_eq!(observed(scraped, phase), produced, "{phase}\n{text}");
    }
    let refused = "strandline_request_errors_total{api=\"DeleteTopics\",\
                   code=\"UNKNOWN_TOPIC_OR_PARTITION\"}";
    assert_eq!(scraped.value(refused), Some(1.0), "{text}");

    let flushes = scraped.sum("strandline_log_flush_seconds_count", "directory=");
    assert!(flushes >= 2.0, "{text}");
    let accepted = scraped.sum(
        "strandline_connections_accepted_total",
        "listener=\"native\"",
    );
    assert!(accepted >= 1.0, "{text}");
    assert!(scraped.value("strandline_memory_in_flight_limit_bytes") > Some(0.0));
    assert!(scraped.value("process_cpu_seconds_total") > Some(0.0));
    assert_eq!(
        scraped.sum("strandline_directory_online", "directory="),
        1.0
    );
}

/// How many produce requests were seen in a phase.
fn observed(scraped: &Scraped, phase: &str) -> f64 {
    let labels = format!("api=\"Produce\",phase=\"{phase}\"");
    scraped.sum("strandline_request_phase_seconds_count", &labels)
}

fn check_names(scraped: &Scraped) {
    // A broker that is alone has no followers.
    let of_followers = [
        "strandline_replica_lag_records",
        "strandline_replica_lag_seconds",
    ];
    let listed: BTreeSet<_> = CATALOGUE
        .iter()
        .filter(|metric| !of_followers.contains(&metric.name))
        .map(|metric| (metric.name, metric.kind.name()))
        .collect();
    assert_eq!(scraped.kinds(), listed);
}
