//! Every metric of the broker, in one catalogue, with held handles for hot paths.
//!
//! **Owns** the names, the recorder of this broker (one per instance, so that several brokers in
//! one process do not mix) and the text that Prometheus scrapes.
//!
//! **Never** makes a caller look up a metric by name on a hot path, and never keeps a series of
//! something that was deleted.

pub mod catalogue;
mod handles;
pub mod process;
mod scrape;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use strandline_protocol::api::{APIS, ApiKey};
use strandline_protocol::error::ErrorCode;

use catalogue::{
    BUILD, CATALOGUE, CONNECTIONS, CONNECTIONS_ACCEPTED, CONNECTIONS_REFUSED, ELECTIONS,
    FETCH_RESPONSE, FETCH_SESSIONS, FLUSH, ISR_EXPANDS, ISR_SHRINKS, Kind, Metric, PRODUCE_BATCH,
    REPAIRS, REPLICATION_IN, REPLICATION_OUT, REQUEST_ERRORS, REQUEST_PHASE, REQUESTS,
    TOPIC_BYTES_IN, TOPIC_BYTES_OUT, TOPIC_RECORDS_IN, TOPIC_RECORDS_OUT, TRUNCATIONS,
};
pub use handles::{
    ApiMetrics, ConnectionMetrics, DirectoryMetrics, OpenConnection, Refusal, ReplicationMetrics,
    TopicMetrics,
};
pub use scrape::{
    ClusterFigures, DirectoryFigures, LeaseFigures, PartitionFigures, QuorumRole, ReplicaFigures,
    ReplicaRole, Scrape,
};

/// Upper bounds of latency buckets, in seconds: from a request that meets only memory to one that
/// waits out a long poll.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

/// Upper bounds of size buckets, in bytes: from one small record to the largest batches.
const BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// How often observations of histograms move from their queues into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

type Collector = Box<dyn Fn(&mut Scrape) + Send + Sync>;

/// The metrics of one broker. Cheap to share behind an `Arc`; nothing in it blocks for long.
pub struct Metrics {
    /// Connections of the native listener.
    pub native: ConnectionMetrics,
    /// Sizes of the batches that producers send, in bytes.
    pub produce_batch: Histogram,
    /// Sizes of the record bytes of fetch answers that are not empty, in bytes.
    pub fetch_response: Histogram,
    /// Replication.
    pub replication: ReplicationMetrics,
    apis: Vec<ApiMetrics>,
    topics: Mutex<BTreeMap<String, Weak<TopicMetrics>>>,
    collectors: Mutex<Vec<Collector>>,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    /// A recorder of its own, with every handle that is known from the start.
    #[must_use]
    pub fn new() -> Self {
        let recorder = build_recorder();
        let handle = recorder.handle();
        let registry = Registry(&recorder);
        Self {
            native: registry.connections("native"),
            produce_batch: registry.histogram(&PRODUCE_BATCH, &[]),
            fetch_response: registry.histogram(&FETCH_RESPONSE, &[]),
            replication: registry.replication(),
            apis: APIS.iter().map(|api| registry.api(api.name)).collect(),
            topics: Mutex::default(),
            collectors: Mutex::default(),
            recorder,
            handle,
        }
    }

    /// The handles of an API. Does not allocate or lock.
    #[must_use]
    pub fn api(&self, key: ApiKey) -> &ApiMetrics {
        match self.apis.get(usize::from(key.code())) {
            Some(api) => api,
            None => unreachable!("there are handles for every row of the table"),
        }
    }

    /// Counts an error in an answer. Looks the counter up: errors are not a hot path.
    pub fn error(&self, key: ApiKey, code: ErrorCode) {
        let labels = [key.api().name, code.name()];
        Registry(&self.recorder)
            .counter(&REQUEST_ERRORS, &labels)
            .increment(1);
    }

    /// The counters of a topic. Partitions hold them; when nobody does any more, the topic's
    /// series vanish from the next scrape.
    #[must_use]
    pub fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        let mut topics = self.topics.lock();
        if let Some(counters) = topics.get(name).and_then(Weak::upgrade) {
            return counters;
        }
        topics.retain(|_, counters| counters.strong_count() > 0);
        let counters = Arc::new(TopicMetrics::default());
        topics.insert(name.to_owned(), Arc::downgrade(&counters));
        counters
    }

    /// The handles of a data directory.
    #[must_use]
    pub fn directory(&self, path: &Path) -> DirectoryMetrics {
        let path = path.to_string_lossy();
        DirectoryMetrics {
            flush: Registry(&self.recorder).histogram(&FLUSH, &[&path]),
        }
    }

    /// Has `collector` asked at every scrape for what is read from live state. It runs on a
    /// blocking thread, and must not wait for long.
    pub fn collect_with(&self, collector: impl Fn(&mut Scrape) + Send + Sync + 'static) {
        self.collectors.lock().push(Box::new(collector));
    }

    /// Everything, in Prometheus' text format 0.0.4. Takes milliseconds with many partitions: call
    /// it on a blocking thread.
    #[must_use]
    pub fn render(&self) -> String {
        let mut scrape = Scrape::default();
        let version = env!("CARGO_PKG_VERSION");
        scrape.sample(&BUILD, &[version, std::env::consts::ARCH], 1);
        process::collect(&mut scrape);
        self.collect_topics(&mut scrape);
        for collector in self.collectors.lock().iter() {
            collector(&mut scrape);
        }
        let mut text = self.handle.render();
        scrape.render_into(&mut text);
        text
    }

    /// Moves observations into their buckets for as long as the broker lives; spawn it once.
    ///
    /// Without it, memory grows with the number of observations between two scrapes. Cancel safe.
    pub async fn keep_up(self: Arc<Self>) {
        let metrics = Arc::downgrade(&self);
        drop(self);
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            match metrics.upgrade() {
                Some(metrics) => metrics.handle.run_upkeep(),
                None => return,
            }
        }
    }

    fn collect_topics(&self, scrape: &mut Scrape) {
        for (name, counters) in self.topics.lock().iter() {
            let Some(counters) = counters.upgrade() else {
                continue;
            };
            for (metric, counter) in [
                (&TOPIC_BYTES_IN, &counters.bytes_in),
                (&TOPIC_RECORDS_IN, &counters.records_in),
                (&TOPIC_BYTES_OUT, &counters.bytes_out),
                (&TOPIC_RECORDS_OUT, &counters.records_out),
            ] {
                scrape.sample(metric, &[name], counter.load(Ordering::Relaxed));
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn build_recorder() -> PrometheusRecorder {
    let mut builder = PrometheusBuilder::new();
    for metric in CATALOGUE
        .iter()
        .filter(|metric| metric.kind == Kind::Histogram)
    {
        let bounds = if metric.unit == "bytes" {
            BYTES
        } else {
            SECONDS
        };
        let name = Matcher::Full(metric.name.to_owned());
        builder = match builder.set_buckets_for_metric(name, bounds) {
            Ok(builder) => builder,
            Err(error) => unreachable!("only an empty list of buckets is refused: {error}"),
        };
    }
    let recorder = builder.build_recorder();
    for metric in CATALOGUE {
        let (name, help) = (metric.name.into(), metric.help.into());
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram => recorder.describe_histogram(name, None, help),
        }
    }
    recorder
}

/// Registers handles by rows of the catalogue.
struct Registry<'a>(&'a PrometheusRecorder);

const METADATA: Metadata<'static> = Metadata::new("strandline", Level::INFO, None);

impl Registry<'_> {
    fn counter(&self, metric: &'static Metric, labels: &[&str]) -> Counter {
        self.0.register_counter(&key(metric, labels), &METADATA)
    }

    fn gauge(&self, metric: &'static Metric, labels: &[&str]) -> Gauge {
        self.0.register_gauge(&key(metric, labels), &METADATA)
    }

    fn histogram(&self, metric: &'static Metric, labels: &[&str]) -> Histogram {
        self.0.register_histogram(&key(metric, labels), &METADATA)
    }

    fn api(&self, name: &str) -> ApiMetrics {
        let phase = |phase| self.histogram(&REQUEST_PHASE, &[name, phase]);
        ApiMetrics {
            requests: self.counter(&REQUESTS, &[name]),
            queue: phase("queue"),
            local: phase("local"),
            wait: phase("wait"),
            send: phase("send"),
        }
    }

    fn replication(&self) -> ReplicationMetrics {
        ReplicationMetrics {
            isr_shrinks: self.counter(&ISR_SHRINKS, &[]),
            isr_expands: self.counter(&ISR_EXPANDS, &[]),
            elections: self.counter(&ELECTIONS, &[]),
            bytes_in: self.counter(&REPLICATION_IN, &[]),
            bytes_out: self.counter(&REPLICATION_OUT, &[]),
            sessions: self.gauge(&FETCH_SESSIONS, &[]),
            truncations: self.counter(&TRUNCATIONS, &[]),
            repaired: self.counter(&REPAIRS, &["repaired"]),
            repair_failed: self.counter(&REPAIRS, &["failed"]),
        }
    }

    fn connections(&self, listener: &str) -> ConnectionMetrics {
        ConnectionMetrics {
            open: self.gauge(&CONNECTIONS, &[listener]),
            accepted: self.counter(&CONNECTIONS_ACCEPTED, &[listener]),
            refused: Refusal::ALL
                .map(|reason| self.counter(&CONNECTIONS_REFUSED, &[listener, reason.name()])),
        }
    }
}

fn key(metric: &'static Metric, labels: &[&str]) -> Key {
    assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(labels)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
