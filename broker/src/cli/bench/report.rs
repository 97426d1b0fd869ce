//! What a benchmark found, in the keys that it is told in.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use strandline_client::Client;

use crate::cli::{
    error::CommandError,
    output::{OutputFormat, Rows, print_json},
    quantity,
};

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// 10^6 bytes of payload per second.
    mb_per_s: f64,
    records_per_s: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// CPU time of the broker, user and system, per 10^9 bytes of payload.
    server_cpu_s_per_gb: f64,
    records: u64,
    bytes: u64,
    seconds: f64,
}

/// What was counted while the clock ran.
pub struct Counted {
    pub records: u64,
    /// Of payload.
    pub bytes: u64,
    pub elapsed: Duration,
    pub server_cpu: Duration,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
}

impl Report {
    /// The figures from the counts.
    pub fn new(counted: &Counted) -> Self {
        let rate = quantity::per_second(counted.bytes, counted.elapsed) / 1e6;
        let gigabytes = quantity::float(counted.bytes) / 1e9;
        let cpu = counted.server_cpu.as_secs_f64();
        let micros = |nanoseconds: u64| quantity::rounded(quantity::float(nanoseconds) / 1e3, 1);
        let at = |quantile: f64| micros(counted.latency.value_at_quantile(quantile));
        Self {
            mb_per_s: quantity::rounded(rate, 3),
            records_per_s: quantity::per_second(counted.records, counted.elapsed).round(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(counted.latency.max()),
            server_cpu_s_per_gb: if gigabytes > 0.0 {
                quantity::rounded(cpu / gigabytes, 3)
            } else {
                0.0
            },
            records: counted.records,
            bytes: counted.bytes,
            seconds: quantity::rounded(counted.elapsed.as_secs_f64(), 3),
        }
    }

    /// Prints it on standard output.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub fn print(&self, format: OutputFormat) -> Result<(), CommandError> {
        if format == OutputFormat::Json {
            return print_json(self);
        }
        let mut rows = Rows::new(&[
            "MB/S#",
            "RECORDS/S#",
            "P50 US#",
            "P90 US#",
            "P99 US#",
            "P99.9 US#",
            "MAX US#",
            "SERVER CPU S/GB#",
            "RECORDS#",
            "BYTES#",
            "SECONDS#",
        ]);
        rows.push([
            format!("{:.1}", self.mb_per_s),
            quantity::thousands(quantity::whole(self.records_per_s)),
            format!("{:.1}", self.p50_us),
            format!("{:.1}", self.p90_us),
            format!("{:.1}", self.p99_us),
            format!("{:.1}", self.p999_us),
            format!("{:.1}", self.max_us),
            format!("{:.2}", self.server_cpu_s_per_gb),
            quantity::thousands(self.records),
            quantity::thousands(self.bytes),
            format!("{:.2}", self.seconds),
        ]);
        rows.print()
    }
}

/// CPU time that the broker has used so far.
///
/// # Errors
/// If it does not answer.
pub async fn server_cpu(client: &Client) -> Result<Duration, CommandError> {
    Ok(Duration::from_micros(
        client.admin().describe_broker().await?.cpu_us,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_in_their_units_and_keys() {
        let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for micros in 1..=1_000_u64 {
            latency.record(micros * 1_000).unwrap();
        }
        let report = Report::new(&Counted {
            records: 2_000,
            bytes: 2_000_000,
            elapsed: Duration::from_secs(2),
            server_cpu: Duration::from_millis(10),
            latency,
        });
        let json = serde_json::to_value(&report).unwrap();
        let keys: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = vec![
            "mb_per_s",
            "records_per_s",
            "p50_us",
            "p90_us",
            "p99_us",
            "p999_us",
            "max_us",
            "server_cpu_s_per_gb",
            "records",
            "bytes",
            "seconds",
        ];
        expected.sort_unstable();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(json["mb_per_s"], 1.0);
        assert_eq!(json["records_per_s"], 1_000.0);
        assert_eq!(json["server_cpu_s_per_gb"], 5.0);
        assert!((499.0..=501.0).contains(&json["p50_us"].as_f64().unwrap()));
    }
}
