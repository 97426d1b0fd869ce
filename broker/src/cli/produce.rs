//! `strandline produce`: one record a line, byte for byte.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use memchr::memmem;
use strandline_client::{ClientError, Compression, Delivery, NewRecord, Producer, ProducerOptions};
use strandline_protocol::{PartitionId, batch::HEADER_BYTES};

use super::{
    connection::{ConnectionArguments, check_partition, describe},
    error::CommandError,
    lines::{LineError, Lines},
    quantity,
    values::{AcksFlag, CompressionFlag, Pair, duration, separator, topic_name},
};

const EXAMPLES: &str = "\
Examples:
  strandline produce logs --file app.log
  tail -f app.log | strandline produce logs
  echo 'user-7:signed in' | strandline produce events --key-separator : --header source=web

Any bytes but the newline pass as they are. An empty line is an empty record, a last line without a
newline counts. A line may be as long as the topic's max.message.bytes less the batch's overhead.";

/// Send lines of a file or of standard input to a topic, one record a line.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProduceArguments {
    /// Which topic.
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topic: String,
    /// Where the lines are; standard input otherwise.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What ends the key at the start of a line; a line without it is a record without a key.
    #[arg(long, value_name = "S", value_parser = separator)]
    pub key_separator: Option<String>,
    /// A header that every record gets; may be repeated.
    #[arg(long, value_name = "K=V")]
    pub header: Vec<Pair>,
    /// Only to this partition; otherwise by key, or in turns.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// How many replicas must have a record before it counts as sent.
    #[arg(long, value_name = "0|1|all", value_enum, default_value = "all")]
    pub acks: AcksFlag,
    /// How batches are compressed; as the topic advises otherwise.
    #[arg(long, value_name = "C", value_enum)]
    pub compression: Option<CompressionFlag>,
    /// How long a record may wait for its acknowledgement, as while the broker is away; then the
    /// command fails and says how far it came.
    #[arg(long, value_name = "D", value_parser = duration, default_value = "2m")]
    pub delivery_timeout: Duration,
}

impl ProduceArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If the source cannot be read, a line is too long, or a record was not acknowledged.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let source = Source::open(self.file.as_deref())?;
        let client = connection.connect().await?;
        let topic = describe(&client, &self.topic).await?;
        let partition = check_partition(&topic, self.partition)?;
        let producer = client.producer(self.options())?;
        let batch_bytes_max = usize::try_from(topic.batch_bytes_max).unwrap_or(usize::MAX);
        let line_bytes_max = value_bytes_max(batch_bytes_max, &self.header);
        let progress = source.progress();
        let name = source.name.clone();
        let started = Instant::now();
        let mut lines = Lines::new(source.reader, line_bytes_max);
        let due = Arc::<AtomicBool>::default();
        let watch = tokio::spawn(tell_what_is_awaited(
            producer.clone(),
            progress.clone(),
            Arc::clone(&due),
            self.delivery_timeout,
        ));
        let sent = self
            .send_all(&producer, partition, &mut lines, (&progress, &due))
            .await;
        // What was taken is sent even if the next line cannot be.
        let closed = producer.close().await;
        watch.abort();
        progress.finish_and_clear();
        let read = lines.count();
        let closed = closed.map_err(|error| not_sent(&error, producer.acknowledged(), read));
        match sent {
            Ok(()) => closed?,
            Err(SendError::TooLong(line)) => {
                closed?;
                return Err(CommandError::failure(format!(
                    "line {line} of {name} is too long: with a batch's overhead, {line_bytes_max} \
                     bytes fit into max.message.bytes of topic `{}`; the lines before it were sent",
                    self.topic
                ))
                .hint(format!(
                    "raise it: strandline topic alter {} --config max.message.bytes=N",
                    self.topic
                )));
            }
            Err(SendError::Source(error)) => {
                closed?;
                return Err(CommandError::io(format_args!("cannot read {name}"), &error));
            }
            Err(SendError::Client(error)) => {
                return Err(not_sent(&error, producer.acknowledged(), read));
            }
        }
        summarise(lines.count(), lines.bytes(), started.elapsed());
        Ok(())
    }

    fn options(&self) -> ProducerOptions {
        ProducerOptions {
            acks: self.acks.into(),
            compression: self
                .compression
                .map_or(Compression::Topic, |flag| Compression::Codec(flag.into())),
            delivery_timeout: self.delivery_timeout,
            ..ProducerOptions::default()
        }
    }

    /// Gives every line to the producer. The thread may block in reading: the producer's tasks run
    /// on others.
    async fn send_all<R: Read>(
        &self,
        producer: &Producer,
        partition: Option<PartitionId>,
        lines: &mut Lines<R>,
        (progress, due): (&ProgressBar, &AtomicBool),
    ) -> Result<(), SendError> {
        let headers: Vec<(&str, Option<&[u8]>)> = self
            .header
            .iter()
            .map(|pair| (pair.key.as_str(), Some(pair.value.as_bytes())))
            .collect();
        let separator = self.key_separator.as_deref().map(memmem::Finder::new);
        let mut watched: Option<Delivery> = None;
        loop {
            let number = lines.count() + 1;
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(LineError::TooLong(line)) => return Err(SendError::TooLong(line)),
                Err(LineError::Io(error)) => return Err(SendError::Source(error)),
            };
            let (key, value) = split(line, separator.as_ref());
            let record = NewRecord {
                topic: &self.topic,
                partition,
                key,
                value: Some(value),
                headers: &headers,
                timestamp: None,
            };
            let sent = match producer.try_send(record) {
                Err(ClientError::WouldWait { .. }) => producer.send(record).await,
                sent => sent,
            };
            let delivery = match sent {
                Ok(delivery) => delivery,
                Err(ClientError::RecordTooLarge { .. }) => return Err(SendError::TooLong(number)),
                Err(error) => return Err(SendError::Client(error)),
            };
            if number.is_multiple_of(CHECK_LINES) || due.swap(false, Ordering::Relaxed) {
                progress.set_position(lines.bytes());
                check(&mut watched, delivery)?;
            }
        }
    }
}

/// How long nothing is acknowledged before a person is told why.
const SILENCE: Duration = Duration::from_secs(2);

/// How often it is told again while nothing changes.
const REMINDER: Duration = Duration::from_secs(10);

/// Says what is in the way, again and again while the broker takes nothing, and has a slow source
/// looked after by `due`.
async fn tell_what_is_awaited(
    producer: Producer,
    progress: ProgressBar,
    due: Arc<AtomicBool>,
    timeout: Duration,
) {
    let (mut before, mut since) = (producer.acknowledged(), Instant::now());
    let mut told: Option<Instant> = None;
    loop {
        tokio::time::sleep(SILENCE).await;
        due.store(true, Ordering::Relaxed);
        let (acknowledged, now) = (producer.acknowledged(), Instant::now());
        let obstacle = producer.obstacle().filter(|_| acknowledged == before);
        let Some(obstacle) = obstacle else {
            (before, since, told) = (acknowledged, now, None);
            continue;
        };
        if told.is_none_or(|told| now.duration_since(told) >= REMINDER) {
            let line = waiting_line(&obstacle, now.duration_since(since), timeout);
            progress.suspend(|| eprintln!("{line}"));
            told = Some(now);
        }
    }
}

fn waiting_line(obstacle: &str, waited: Duration, timeout: Duration) -> String {
    format!(
        "waiting for {} s: {obstacle}; records are given up after {} (--delivery-timeout)",
        waited.as_secs(),
        humantime::format_duration(timeout),
    )
}

/// The error of a source that was not sent as a whole: says how far it came.
fn not_sent(error: &ClientError, acknowledged: u64, read: u64) -> CommandError {
    let is_full = error.to_string().contains("DISK_FULL");
    let failed = CommandError::from(error.clone()).but(&format!(
        "{} of {} records read were acknowledged",
        quantity::thousands(acknowledged),
        quantity::thousands(read),
    ));
    if let (false, ClientError::TimedOutBeforeSending { .. }) = (is_full, error) {
        return failed.hint(
            "send the rest again once the broker answers, or let it wait longer with \
             --delivery-timeout",
        );
    }
    if is_full {
        return failed.hint(
            "free space on the broker's disk, as with `strandline topic trim` or `strandline \
             topic delete`, and send the rest again",
        );
    }
    failed
}

/// Every so many lines, progress is shown and one delivery looked at.
const CHECK_LINES: u64 = 4_096;

/// Looks whether the record that is watched was refused, so that a refusal ends the command before
/// the source does; then watches the next one. The flush at the end hears of every other.
fn check(watched: &mut Option<Delivery>, next: Delivery) -> Result<(), SendError> {
    match watched.as_ref().map(Delivery::try_position) {
        Some(Some(Err(error))) => return Err(SendError::Client(error)),
        Some(None) => {}
        Some(Some(Ok(_))) | None => *watched = Some(next),
    }
    Ok(())
}

enum SendError {
    TooLong(u64),
    Source(io::Error),
    Client(ClientError),
}

/// Key and value of a line; a line without the separator has no key.
fn split<'a>(
    line: &'a [u8],
    separator: Option<&memmem::Finder<'_>>,
) -> (Option<&'a [u8]>, &'a [u8]) {
    let found = separator.and_then(|finder| {
        let (key, rest) = line.split_at_checked(finder.find(line)?)?;
        let (_, value) = rest.split_at_checked(finder.needle().len())?;
        Some((key, value))
    });
    match found {
        Some((key, value)) => (Some(key), value),
        None => (None, line),
    }
}

/// The largest value of a record without a key that fits into a batch by itself.
fn value_bytes_max(batch_bytes_max: usize, headers: &[Pair]) -> usize {
    let headers_bytes: usize = headers
        .iter()
        .map(|pair| {
            let (name, value) = (pair.key.len(), pair.value.len());
            varint_bytes(name) + name + varint_bytes(value) + value
        })
        .sum();
    // Attributes, the deltas of time and offset (0), the key's length (-1), the count of headers.
    let fixed = 4 + varint_bytes(headers.len()) + headers_bytes;
    let room = batch_bytes_max.saturating_sub(HEADER_BYTES + fixed);
    // Two lengths precede the value: the record's and its own. They only shrink with the value.
    let guess = room.saturating_sub(2 * varint_bytes(room));
    let fits = |value: usize| {
        let body = fixed + varint_bytes(value) + value;
        HEADER_BYTES + varint_bytes(body) + body <= batch_bytes_max
    };
    (guess..=room)
        .take_while(|value| fits(*value))
        .last()
        .unwrap_or(guess)
}

/// How many bytes a length takes as a zigzag varint.
fn varint_bytes(length: usize) -> usize {
    let bits = usize::BITS - length.leading_zeros() + 1;
    usize::try_from(bits.div_ceil(7)).unwrap_or(10)
}

/// Where the lines come from.
struct Source {
    name: String,
    reader: Box<dyn Read>,
    bytes: Option<u64>,
    is_terminal: bool,
}

impl Source {
    fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path else {
            let stdin = io::stdin();
            return Ok(Self {
                name: "standard input".to_owned(),
                is_terminal: stdin.is_terminal(),
                // The lock's own buffer is passed by, as reads are larger than it is.
                reader: Box::new(stdin.lock()),
                bytes: None,
            });
        };
        let name = path.display().to_string();
        let wrong = |error: &io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "check the path given to --file",
                io::ErrorKind::IsADirectory => "give --file a file, not a directory",
                _ => "check that the file can be read",
            };
            CommandError::io(format_args!("cannot read {name}"), error).hint(hint)
        };
        let file = File::open(path).map_err(|error| wrong(&error))?;
        let metadata = file.metadata().map_err(|error| wrong(&error))?;
        if metadata.is_dir() {
            return Err(wrong(&io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self {
            bytes: metadata.is_file().then_some(metadata.len()),
            name,
            reader: Box::new(file),
            is_terminal: false,
        })
    }

    /// A bar on a terminal, unless lines are typed into it; hidden otherwise.
    fn progress(&self) -> ProgressBar {
        if self.is_terminal || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match self.bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {decimal_bytes} {decimal_bytes_per_sec}",
            ),
        };
        let style = ProgressStyle::with_template(template);
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

fn summarise(records: u64, bytes: u64, elapsed: Duration) {
    eprintln!(
        "sent {}, {} in {:.2} s ({}/s, {:.0} records/s)",
        quantity::counted(records, "record"),
        quantity::bytes(bytes),
        elapsed.as_secs_f64(),
        quantity::bytes(quantity::whole(quantity::per_second(bytes, elapsed))),
        quantity::per_second(records, elapsed),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_separator() {
        let finder = memmem::Finder::new("::");
        let check = |line: &[u8], key: Option<&[u8]>, value: &[u8]| {
            assert_eq!(split(line, Some(&finder)), (key, value));
        };
        check(b"a::b", Some(b"a"), b"b");
        check(b"a::b::c", Some(b"a"), b"b::c");
        check(b"::b", Some(b""), b"b");
        check(b"a::", Some(b"a"), b"");
        check(b"a:b", None, b"a:b");
        assert_eq!(split(b"a::b", None), (None, &b"a::b"[..]));
    }

    #[test]
    fn lengths_are_zigzag_varints() {
        for (length, bytes) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (8_191, 2),
            (8_192, 3),
            (1 << 20, 4),
        ] {
            assert_eq!(varint_bytes(length), bytes, "{length}");
        }
    }

    #[test]
    fn a_failure_says_how_far_it_came_and_what_to_do_about_a_full_disk() {
        let error = ClientError::TimedOutBeforeSending {
            subject: "`t`-0".to_owned(),
            after: Duration::from_secs(120),
            reason: "no room (DISK_FULL)".to_owned(),
        };
        let text = not_sent(&error, 4_096, 5_000).to_string();
        for said in [
            "no room (DISK_FULL)",
            "4,096 of 5,000 records read were acknowledged",
            "hint: free space on the broker's disk",
            "strandline topic trim",
        ] {
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn who_waits_is_told_for_what_and_until_when() {
        let line = waiting_line(
            "nobody answers",
            Duration::from_secs(12),
            Duration::from_secs(120),
        );
        assert_eq!(
            line,
            "waiting for 12 s: nobody answers; records are given up after 2m (--delivery-timeout)"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let wrong = Source::open(Some(Path::new("/does/not/exist")))
            .err()
            .unwrap();
        assert_eq!(
            wrong.to_string(),
            "error: cannot read /does/not/exist: no such file or directory\n\
             hint: check the path given to --file\n"
        );
    }
}
