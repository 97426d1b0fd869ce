//! What may be sent while something is under way.

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

/// Fills a batch at `at` and sends it, if that may be; returns its number.
fn send(partition: &mut Partition, at: Instant) -> Option<u64> {
    if partition.open.is_none() {
        partition.open = Some(Unsent {
            builder: BatchBuilder::new(Codec::None, 1 << 20),
            outcome: Arc::default(),
            opened: at,
            memory: 1,
        });
    }
    let (mut jobs, later) = (Vec::new(), at + BUSY_WAIT);
    partition.take_jobs(later, PACE, IDENTITY, BrokerId(1), &mut jobs);
    assert!(jobs.len() <= 1);
    jobs.first().map(|job| match job {
        Job::Send { number, .. } | Job::Encode { number, .. } => *number,
    })
}

#[test]
fn whatever_is_answered_the_oldest_stays_among_the_last_five() {
    let options = crate::options::ClientOptions::default();
    let mut partition = Partition::new(PartitionId(0), Backoff::new(&options));
    let at = Instant::now();
    // The first batch of an identity goes alone.
    let first = send(&mut partition, at).expect("the first is sent");
    assert_eq!(send(&mut partition, at), None);
    partition.end_written(first);
    let sent: Vec<u64> = (0..5).filter_map(|_| send(&mut partition, at)).collect();
    assert_eq!(sent.len(), 5);
    for number in &sent[1..] {
        partition.end_written(*number);
        assert_eq!(send(&mut partition, at), None, "the oldest is not answered");
    }
    let look = partition.next_look(at, PACE, Duration::from_secs(9));
    assert!(
        look.is_some_and(|look| look > at + 2 * BUSY_WAIT),
        "{look:?}"
    );
    partition.end_written(sent[0]);
    assert!(send(&mut partition, at).is_some());
}
