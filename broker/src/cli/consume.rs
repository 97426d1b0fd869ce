//! `strandline consume`: records to standard output, byte for byte.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    pin::pin,
    thread,
    time::Duration,
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use strandline_client::{
    Admin, ClientError, Consumer, ConsumerOptions, ConsumerWatch, Records, StartAt,
};
use strandline_protocol::{Offset, PartitionId, messages::OffsetQuery};
use tokio::{
    sync::oneshot,
    time::{Instant, interval_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connection::{ConnectionArguments, check_partition, describe, tell_leaderless},
    error::CommandError,
    position::Position,
    template::{Shown, Template},
    values::topic_name,
};

const EXAMPLES: &str = "\
Examples:
  strandline consume logs --exit-at-end > copy.log
  strandline consume logs --from -10                       the last ten records of each partition
  strandline consume logs --from 2026-11-23T08:00:00Z --format '%T %p@%o %k: %v'
  strandline consume logs --rack west                      read from a replica nearby

Format: %t topic, %p partition, %o offset, %T time, %h headers, %k key, %v value, %% a percent sign;
\\n \\t \\r \\0 \\\\ are escapes. A newline follows each record unless the format ends in \\n
or \\0.";

/// Print the records of a topic, those that are there and those that come.
///
/// Records of one partition come in their order; partitions mix.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConsumeArguments {
    /// Which topic.
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topic: String,
    /// Where to begin: at the beginning, the end, an offset, N records before the end, or a time.
    #[arg(
        long,
        value_name = "beginning|end|OFFSET|-N|RFC3339",
        default_value = "beginning"
    )]
    #[arg(allow_hyphen_values = true)]
    pub from: Position,
    /// Only this partition; all of them otherwise.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Where this runs, as the brokers' `rack` names it: a replica in sync there is read instead of
    /// the leader, where there is one.
    #[arg(long, value_name = "RACK")]
    pub rack: Option<String>,
    /// Stop after so many records.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_messages: Option<u64>,
    /// Stop at what is the end when the command starts, instead of waiting for more.
    #[arg(long)]
    pub exit_at_end: bool,
    /// How to print a record.
    #[arg(long, value_name = "FORMAT", default_value = "%v")]
    pub format: Template,
}

/// How long nothing is heard before a person is told.
const SILENCE: Duration = Duration::from_secs(2);

/// How often it is told again while nothing changes.
const REMINDER: Duration = Duration::from_secs(10);

/// How often it is looked whether partitions that nobody led have a leader now.
const LOOK_FOR_LEADERS_EVERY: Duration = Duration::from_secs(1);

/// How much is gathered for one write to standard output.
const WRITE_BYTES: usize = 1 << 20;

impl ConsumeArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If the topic cannot be read or standard output cannot be written.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let client = connection.connect().await?;
        let topic = describe(&client, &self.topic).await?;
        let partition = check_partition(&topic, self.partition)?;
        if let Position::Offset(offset) = self.from {
            self.check_offset(&client.admin(), partition, offset)
                .await?;
        }
        let mut consumer = client.consumer(ConsumerOptions {
            rack: self.rack.clone(),
            ..ConsumerOptions::default()
        })?;
        // What nobody leads does not keep the others from being read: it is read once it is led.
        let mut missing = tell_leaderless(&topic, partition);
        let partitions = topic.partitions.iter().map(|it| it.id);
        let wanted = partitions.filter(|id| partition.is_none_or(|only| only == *id));
        let led: Vec<_> = wanted.filter(|id| !missing.contains(id)).collect();
        patiently(self.assign(&mut consumer, &led)).await?;
        let _telling = tell_what_is_awaited(consumer.watch());
        let mut gaps = Gaps::new(&consumer.positions());
        let mut sink = Sink::open()?;
        let mut left = self.max_messages.unwrap_or(u64::MAX);
        let mut reader_gone = reader_gone();
        let mut look = tokio::time::interval(LOOK_FOR_LEADERS_EVERY);
        while left > 0 {
            let polled = tokio::select! {
                biased;
                polled = self.poll(&mut consumer) => polled?,
                _ = &mut reader_gone => return Err(CommandError::closed_pipe()),
                _ = look.tick(), if !missing.is_empty() => {
                    let now = describe(&client, &self.topic).await?;
                    let is_led = |id: &PartitionId| {
                        now.partitions.iter().any(|it| it.id == *id && it.leader.is_some())
                    };
                    let found: Vec<_> = missing.iter().copied().filter(is_led).collect();
                    if !found.is_empty() {
                        self.assign(&mut consumer, &found).await?;
                        gaps = Gaps::new(&consumer.positions());
                        missing.retain(|id| !found.contains(id));
                    }
                    continue;
                }
            };
            let Some(records) = polled else {
                break;
            };
            gaps.tell(&records);
            let written = self.write(records, &mut left, &mut sink);
            // What is readable before a damaged record is printed first.
            sink.flush()?;
            written?;
        }
        if self.exit_at_end && left > 0 && !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let missing = missing.join(", ");
            let error = format!("partitions {missing} were not read: nobody leads them now");
            return Err(CommandError::failure(error)
                .hint("`strandline cluster health` tells what is wrong, and what to do"));
        }
        Ok(())
    }

    /// Reads these partitions, too, from where it was asked to begin; the others go on.
    async fn assign(
        &self,
        consumer: &mut Consumer,
        partitions: &[PartitionId],
    ) -> Result<(), ClientError> {
        let reading = consumer.positions();
        let start = start_at(self.from);
        let new = partitions
            .iter()
            .map(|id| (self.topic.as_str(), *id, start));
        let reading = reading
            .iter()
            .map(|it| (&*it.topic, it.partition, StartAt::Offset(it.offset)));
        let all: Vec<_> = reading.chain(new).collect();
        consumer.assign(&all).await
    }

    /// Holds the offset to begin at against what the partitions hold.
    async fn check_offset(
        &self,
        admin: &Admin,
        only: Option<PartitionId>,
        offset: Offset,
    ) -> Result<(), CommandError> {
        let starts = admin.list_offsets_of_led(&self.topic, OffsetQuery::Earliest);
        let starts = starts.await?;
        let ends = admin.list_offsets_of_led(&self.topic, OffsetQuery::Latest);
        let ends = ends.await?;
        for start in &starts {
            let end = ends.iter().find(|end| end.partition == start.partition);
            let (Some(first), Some(last)) = (start.offset, end.and_then(|end| end.offset)) else {
                continue;
            };
            let wanted = only.is_none_or(|only| only == start.partition);
            if wanted && !(first..=last).contains(&offset) {
                return Err(CommandError::from(ClientError::OutOfRange {
                    topic: self.topic.clone(),
                    partition: start.partition,
                    offset,
                    start: first,
                    end: last,
                })
                .hint(format!("see `strandline offsets {}`", self.topic)));
            }
        }
        Ok(())
    }

    async fn poll(&self, consumer: &mut Consumer) -> Result<Option<Records>, ClientError> {
        if self.exit_at_end {
            // There is something to read, or it ends.
            patiently(consumer.poll_to_end()).await
        } else {
            consumer.poll().await.map(Some)
        }
    }

    fn write(&self, records: Records, left: &mut u64, sink: &mut Sink) -> Result<(), CommandError> {
        let count = usize::try_from(*left).unwrap_or(usize::MAX);
        if self.format.shows_headers() {
            return self.write_owned(records, count, left, sink);
        }
        for record in records.iter().take(count) {
            let record = record?;
            *left -= 1;
            let shown = Shown {
                topic: &self.topic,
                partition: records.partition(),
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: std::iter::empty(),
            };
            self.format.write(&shown, &mut sink.gathered);
            sink.flush_if_full()?;
        }
        Ok(())
    }

    /// As `write`, with headers, which only an owned record has at hand.
    fn write_owned(
        &self,
        records: Records,
        count: usize,
        left: &mut u64,
        sink: &mut Sink,
    ) -> Result<(), CommandError> {
        for record in records.into_owned().take(count) {
            let record = record?;
            *left -= 1;
            let headers = record.headers.iter();
            let shown = Shown {
                topic: &self.topic,
                partition: record.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: headers.map(|(name, value)| (name.as_str(), value.as_deref())),
            };
            self.format.write(&shown, &mut sink.gathered);
            sink.flush_if_full()?;
        }
        Ok(())
    }
}

/// Waits for what the cluster is asked at the beginning, and says so if that takes long.
async fn patiently<T>(asked: impl Future<Output = T>) -> T {
    let since = Instant::now();
    let mut asked = pin!(asked);
    let mut told = interval_at(since + SILENCE, REMINDER);
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => return answer,
            _ = told.tick() => eprintln!(
                "waiting for {} s for the leaders of the topic; `strandline cluster health` tells \
                 what is wrong",
                since.elapsed().as_secs()
            ),
        }
    }
}

/// Says what is in the way, again and again while it lasts, until it is dropped.
fn tell_what_is_awaited(watch: ConsumerWatch) -> impl Drop {
    let task = tokio::spawn(async move {
        let mut since: Option<Instant> = None;
        let mut told: Option<Instant> = None;
        loop {
            tokio::time::sleep(SILENCE / 2).await;
            let now = Instant::now();
            let Some(obstacle) = watch.obstacle() else {
                (since, told) = (None, None);
                continue;
            };
            let waited = now.duration_since(*since.get_or_insert(now));
            let is_due = told.is_none_or(|told| now.duration_since(told) >= REMINDER);
            if waited >= SILENCE && is_due {
                told = Some(now);
                eprintln!("waiting for {} s: {obstacle}", waited.as_secs());
            }
        }
    });
    AbortOnDropHandle::new(task)
}

/// Tells of offsets that the log does not hold any more.
struct Gaps {
    /// The offset that comes next, where nothing is missing.
    next: BTreeMap<PartitionId, Offset>,
}

impl Gaps {
    fn new(positions: &[strandline_client::Position]) -> Self {
        let next = positions.iter().map(|it| (it.partition, it.offset));
        Self {
            next: next.collect(),
        }
    }

    /// A line for each gap before or between the batches.
    fn tell(&mut self, records: &Records) {
        let (topic, partition) = (records.topic(), records.partition());
        let next = self.next.entry(partition).or_default();
        for range in records.ranges() {
            if range.start > *next {
                let last = range.start.plus(-1);
                eprintln!(
                    "warning: offsets {next} to {last} of `{topic}`-{partition} are missing: a \
                     repair of the log took them out"
                );
            }
            *next = range.end.max(*next);
        }
    }
}

const fn start_at(position: Position) -> StartAt {
    match position {
        Position::Beginning => StartAt::Beginning,
        Position::End => StartAt::End,
        Position::Offset(offset) => StartAt::Offset(offset),
        Position::BeforeEnd(count) => StartAt::FromEnd(count),
        Position::Time(time) => StartAt::Time(time),
    }
}

/// Standard output in large writes, past the line buffer of the standard library.
struct Sink {
    out: File,
    gathered: Vec<u8>,
}

impl Sink {
    fn open() -> Result<Self, CommandError> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|error| CommandError::io("standard output", &error))?;
        Ok(Self {
            out: File::from(descriptor),
            gathered: Vec::with_capacity(WRITE_BYTES * 2),
        })
    }

    fn flush_if_full(&mut self) -> Result<(), CommandError> {
        if self.gathered.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CommandError> {
        let written = self.out.write_all(&self.gathered);
        self.gathered.clear();
        written.map_err(|error| CommandError::io("standard output", &error))
    }
}

/// Resolves once nobody reads standard output any more, so that a quiet topic does not keep the
/// command alive. Never for a file. A thread of its own waits for it, as long as the process lives.
fn reader_gone() -> oneshot::Receiver<()> {
    let (gone, watch) = oneshot::channel();
    thread::spawn(move || {
        let stdout = io::stdout();
        // No event is asked for, so only an error or a hang-up ends the wait.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        loop {
            match poll(&mut watched, None) {
                Err(Errno::INTR) => {}
                Ok(_) => {
                    // Nobody listens once the command has ended by itself.
                    let _ = gone.send(());
                    return;
                }
                // What cannot be watched is not: the sender stays, so that nobody is told.
                Err(_) => return std::mem::forget(gone),
            }
        }
    });
    watch
}
