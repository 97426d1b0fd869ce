//! When a batch that is not full is sent.

use strandline_protocol::batch::Codec;

use super::*;

const PACE: Pace = Pace {
    linger: Duration::ZERO,
    in_flight_max: 5,
};

const IDENTITY: Identity = Identity {
    id: ProducerId(7),
    epoch: ProducerEpoch(0),
};

fn partition() -> Partition {
    let options = crate::options::ClientOptions::default();
    Partition::new(PartitionId(0), Backoff::new(&options))
}

/// A batch of so many bytes is opened at `at`.
fn open(partition: &mut Partition, at: Instant, memory: usize) {
    partition.open = Some(Unsent {
        builder: BatchBuilder::new(Codec::None, 1 << 20),
        outcome: Arc::default(),
        opened: at,
        memory,
    });
}

/// Sends what is due at `at`, and returns the numbers of the batches.
fn send(partition: &mut Partition, at: Instant) -> Vec<u64> {
    let mut jobs = Vec::new();
    partition.take_jobs(at, PACE, IDENTITY, BrokerId(1), &mut jobs);
    let numbers = jobs.iter().map(|job| match job {
        Job::Send { number, .. } | Job::Encode { number, .. } => *number,
    });
    numbers.collect()
}

#[test]
fn the_next_batch_of_a_stream_fills_for_a_while() {
    let (mut partition, start) = (partition(), Instant::now());
    let after = |micros: u64| start + Duration::from_micros(micros);
    for (bytes, due) in [(STREAM_BYTES - 1, 900), (STREAM_BYTES, 2_100)] {
        open(&mut partition, start, bytes);
        let sent = send(&mut partition, start);
        assert_eq!(sent.len(), 1, "what is idle sends at once");
        open(&mut partition, after(100), 1);
        assert_eq!(send(&mut partition, after(800)), [], "one is under way");
        partition.end_written(sent[0], after(900));
        if due > 900 {
            assert_eq!(send(&mut partition, after(due - 1)), [], "{bytes}");
            let look = partition.next_look(after(900), PACE, Duration::from_secs(9));
            assert_eq!(look, Some(after(due)));
        }
        let sent = send(&mut partition, after(due));
        assert_eq!(sent.len(), 1, "{bytes}");
        partition.end_written(sent[0], after(due));
    }
}

#[test]
fn who_waits_for_each_answer_waits_for_nothing_else() {
    let (mut partition, start) = (partition(), Instant::now());
    for round in 0..3 {
        let at = start + Duration::from_micros(1_000 * round);
        open(&mut partition, at, STREAM_BYTES * 2);
        let sent = send(&mut partition, at);
        assert_eq!(sent.len(), 1, "{round}");
        partition.end_written(sent[0], at + Duration::from_micros(500));
    }
}

#[test]
fn a_flush_waits_for_no_stream() {
    let (mut partition, start) = (partition(), Instant::now());
    open(&mut partition, start, STREAM_BYTES);
    let sent = send(&mut partition, start);
    open(&mut partition, start, 1);
    partition.end_written(sent[0], start + Duration::from_micros(1));
    assert_eq!(send(&mut partition, start + Duration::from_micros(2)), []);
    partition.hurry();
    assert_eq!(
        send(&mut partition, start + Duration::from_micros(2)).len(),
        1
    );
}

#[test]
fn a_stream_waits_for_no_answer() {
    let (mut partition, start) = (partition(), Instant::now());
    let after = |micros: u64| start + Duration::from_micros(micros);
    // The first batch of an identity goes alone.
    open(&mut partition, start, STREAM_BYTES);
    let first = send(&mut partition, start);
    partition.end_written(first[0], start);
    for (bytes, due) in [(STREAM_BYTES, 2_000), (1, 5_000)] {
        let at = after(10_000 + due);
        open(&mut partition, at, bytes);
        let sent = send(&mut partition, at);
        assert_eq!(sent.len(), 1);
        open(&mut partition, at, 1);
        let due = at + Duration::from_micros(due);
        assert_eq!(send(&mut partition, due - Duration::from_micros(1)), []);
        let second = send(&mut partition, due);
        assert_eq!(second.len(), 1, "{bytes}");
        partition.end_written(sent[0], due);
        partition.end_written(second[0], due);
    }
}
