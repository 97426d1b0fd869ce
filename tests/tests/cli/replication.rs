//! The command line of replication, with four broker processes: what a person does with replicas.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Output, Stdio},
};

use strandline_tests::{Broker, BrokerSetup, strandline_binary, wait_until};

struct Cluster {
    _root: tempfile::TempDir,
    bootstrap: String,
    setups: BTreeMap<i32, BrokerSetup>,
    running: BTreeMap<i32, Broker>,
}

type Ended = (Option<i32>, String, String);

impl Cluster {
    fn of_four() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut setups: BTreeMap<i32, BrokerSetup> = BTreeMap::new();
        for id in 1..=4 {
            let mut setup = BrokerSetup::on(&root.path().join(id.to_string())).with(&[
                "--node-id",
                &id.to_string(),
                "--rack",
                ["even", "odd"][usize::try_from(id % 2).unwrap()],
            ]);
            if let Some(first) = setups.get(&1) {
                setup = setup.argument("--join").argument(&first.address());
            }
            setups.insert(id, setup);
        }
        let addresses: Vec<_> = setups.values().map(BrokerSetup::address).collect();
        let running = setups.iter().map(|(id, it)| (*id, it.start())).collect();
        let cluster = Self {
            _root: root,
            bootstrap: addresses.join(","),
            setups,
            running,
        };
        cluster.wait_for_health();
        cluster
    }

    fn wait_for_health(&self) {
        wait_until("a cluster that is well", || {
            let json = self.json("cluster describe --output json");
            let brokers = json["brokers"].as_array().map_or(0, Vec::len);
            brokers == self.setups.len() && self.run("cluster health").0 == Some(0)
        });
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(strandline_binary());
        command
            .args(words.split(' '))
            .env("STRANDLINE_BOOTSTRAP", &self.bootstrap);
        command
    }

    fn run(&self, words: &str) -> Ended {
        ended(&self.command(words).output().unwrap())
    }

    /// The output of a command that must succeed.
    fn must(&self, words: &str) -> String {
        let (code, text, error) = self.run(words);
        assert_eq!(code, Some(0), "{words}: {text}{error}");
        text
    }

    fn json(&self, words: &str) -> serde_json::Value {
        serde_json::from_str(&self.run(words).1).unwrap_or_default()
    }

    /// The replicas of one partition.
    fn partition(&self, topic: &str, partition: usize) -> serde_json::Value {
        let json = self.json(&format!("topic describe {topic} --output json"));
        json["partitions"][partition].clone()
    }

    fn begin(&self, words: &str) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

fn ended(output: &Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn ids(value: &serde_json::Value) -> Vec<i64> {
    let ids = value.as_array().into_iter().flatten();
    ids.filter_map(serde_json::Value::as_i64).collect()
}

#[test]
fn replicas_are_shown_moved_drained_and_retired() {
    let mut cluster = Cluster::of_four();
    let (code, _, error) = cluster.run("topic create wide --replication-factor 9");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("hint: "), "{error}");
    cluster.must("topic create orders --partitions 4 --replication-factor 3");
    cluster.must("bench produce --topic orders --records 5000 --record-size 100 --acks all");
    let text = cluster.must("topic describe orders");
    for column in ["IN SYNC", "DURABLE", "LAG", "BEHIND", "min.insync.replicas"] {
        assert!(text.contains(column), "{column}: {text}");
    }
    wait_until("every copy has everything", || {
        let copies = (0..4).map(|id| cluster.partition("orders", id));
        let copies: Vec<_> = copies
            .flat_map(|it| it["copies"].as_array().cloned())
            .collect();
        copies.iter().flatten().all(|copy| copy["lag"] == 0)
            && copies.iter().flatten().count() == 12
    });
    assert!(
        cluster
            .must("topic elect-preferred orders")
            .contains("as it was")
    );
    let (code, _, error) = cluster.run("topic elect-preferred orders --unclean");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("--accept-data-loss"), "{error}");
    let text = cluster.must("topic elect-preferred orders --unclean --accept-data-loss");
    assert_eq!(text, "every partition of orders has a leader\n");

    reassign(&cluster);
    drain(&cluster);
    lose_one(&mut cluster);
    decommission(&mut cluster);
}

fn reassign(cluster: &Cluster) {
    let before = ids(&cluster.partition("orders", 0)["replicas"]);
    let other = (1..=4).find(|id| !before.contains(id)).unwrap();
    let words = format!(
        "topic reassign orders --partition 0 --replicas {},{other},{} --throttle 100MB",
        before[1], before[0]
    );
    let text = cluster.must(&words);
    let says = format!("lies on brokers {}, {other}, {}\n", before[1], before[0]);
    assert!(text.ends_with(&says), "{text}");
    let after = cluster.partition("orders", 0);
    assert_eq!(ids(&after["replicas"]), [before[1], other, before[0]]);
    assert_eq!(ids(&after["isr"]).len(), 3);
    for (words, code) in [
        ("topic reassign orders --partition 0 --replicas 1,1", 2),
        ("topic reassign orders --partition 0 --replicas 1,77", 2),
        ("topic reassign orders --partition 9 --replicas 1", 1),
        ("topic reassign orders --partition 0 --cancel", 1),
    ] {
        let (ended, _, error) = cluster.run(words);
        assert_eq!(ended, Some(code), "{words}: {error}");
        assert!(error.contains("hint: "), "{words}: {error}");
    }
}

fn drain(cluster: &Cluster) {
    let leader = cluster.partition("orders", 1)["leader"].as_i64().unwrap();
    let text = cluster.must(&format!("broker drain {leader}"));
    assert!(text.contains("it leads nothing"), "{text}");
    assert_ne!(cluster.partition("orders", 1)["leader"], leader);
    let text = cluster.must("cluster describe");
    assert!(text.contains("active, drained"), "{text}");
    let text = cluster.must(&format!("broker undrain {leader}"));
    assert!(text.contains("has its full duty"), "{text}");
    let (code, _, error) = cluster.run("broker drain 77");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("hint: "), "{error}");
}

/// One broker dies: writing goes on, and the cluster says what is missing. When it is back it
/// catches up in all partitions, though their batches do not all fit into one answer.
fn lose_one(cluster: &mut Cluster) {
    cluster.must("topic create heaps --partitions 60 --replication-factor 3");
    cluster.running.get_mut(&2).unwrap().kill_now();
    let large = "--records 90000 --record-size 1000 --linger 2s";
    cluster.must(&format!("bench produce --topic heaps --acks all {large}"));
    cluster.must("bench produce --topic orders --records 2000 --record-size 100 --acks all");
    wait_until("the cluster says what is missing", || {
        let (code, text, _) = cluster.run("cluster health");
        code == Some(1) && text.contains("under-replicated")
    });
    let broker = cluster.setups[&2].start();
    cluster.running.insert(2, broker);
    cluster.wait_for_health();
}

/// The controller leaves: another broker has to decide before it may.
fn decommission(cluster: &mut Cluster) {
    let controller = |json: &serde_json::Value| json["controller"].as_i64();
    let id = controller(&cluster.json("cluster describe --output json")).unwrap();
    let text = cluster.must(&format!("broker decommission {id} --dry-run"));
    let moves = format!("move from broker {id}");
    assert!(text.contains(&format!("would {moves}")), "{text}");
    let mut child = cluster.begin(&format!("broker decommission {id}"));
    wait_until("it keeps and decides nothing", || {
        let json = cluster.json("cluster describe --output json");
        let brokers = json["brokers"].as_array().cloned().unwrap_or_default();
        let leaving = brokers.iter().find(|broker| broker["broker"] == id);
        let voters = json["members"].as_array().cloned().unwrap_or_default();
        let votes = |it: &&serde_json::Value| it["broker"] == id && it["role"] != "learner";
        let decides = controller(&json).is_none_or(|other| other == id);
        let is_out = !decides && !voters.iter().any(|it| votes(&it));
        is_out && leaving.is_some_and(|it| it["keeps"] == 0)
    });
    let key = i32::try_from(id).unwrap();
    let (status, log) = cluster.running.remove(&key).unwrap().stop();
    assert!(status.success(), "{log}");
    wait_until("it is struck off", || child.try_wait().unwrap().is_some());
    let (code, text, error) = ended(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{text}{error}");
    let says = format!("broker {id} is struck off\n");
    assert!(text.ends_with(&says), "{text}");
    assert!(error.contains(&moves), "{error}");
    cluster.setups.remove(&key);
    cluster.wait_for_health();
    for partition in 0..4 {
        let it = cluster.partition("orders", partition);
        assert_eq!(
            (ids(&it["replicas"]).len(), ids(&it["isr"]).len()),
            (3, 3),
            "{it}"
        );
    }
    let records = cluster.must("consume orders --exit-at-end --format %p@%o");
    assert!(records.lines().count() >= 7_000);
    // With three brokers left nobody can be spared.
    let other = cluster.setups.keys().next().unwrap();
    let (code, _, error) = cluster.run(&format!("broker decommission {other}"));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("nothing is moved"), "{error}");
}

/// What was acknowledged by one copy only, whose broker never comes back.
#[test]
fn what_is_gone_for_good_is_given_up_only_on_request() {
    let mut cluster = Cluster::of_four();
    cluster.must(
        "topic create risky --partitions 1 --replication-factor 2 --config min.insync.replicas=1",
    );
    cluster.must("topic reassign risky --partition 0 --replicas 4,2");
    cluster.must("topic elect-preferred risky");
    let leads = |cluster: &Cluster| cluster.partition("risky", 0)["leader"].as_i64();
    assert_eq!(leads(&cluster), Some(4));
    cluster.must("bench produce --topic risky --records 1000 --record-size 100 --acks all");
    cluster.running.get_mut(&2).unwrap().kill_now();
    wait_until("broker 4 is in sync alone", || {
        ids(&cluster.partition("risky", 0)["isr"]) == [4]
    });
    // These are on broker 4 alone.
    cluster.must("bench produce --topic risky --records 500 --record-size 100 --acks all");
    cluster.running.get_mut(&4).unwrap().kill_now();
    wait_until("nobody leads", || {
        leads(&cluster).is_none() && cluster.run("cluster health").0 == Some(2)
    });
    let broker = cluster.setups[&2].start();
    cluster.running.insert(2, broker);
    wait_until("broker 2 is back", || {
        let json = cluster.json("cluster describe --output json");
        let brokers = json["brokers"].as_array().cloned().unwrap_or_default();
        brokers
            .iter()
            .any(|it| it["broker"] == 2 && it["state"] == "active")
    });
    assert_eq!(leads(&cluster), None, "it lacks what was acknowledged");
    let (code, _, error) = cluster.run("topic elect-preferred risky --unclean");
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(leads(&cluster), None);
    cluster.must("topic elect-preferred risky --partition 0 --unclean --accept-data-loss");
    wait_until("broker 2 leads", || leads(&cluster) == Some(2));
    let records = cluster.must("consume risky --exit-at-end --format %o");
    let had = records.lines().count();
    assert_eq!(had, 1_100, "what broker 2 had, a tenth of it a warm-up");
    cluster.must("bench produce --topic risky --records 100 --record-size 100 --acks all");

    // A broker that never comes back leaves too, without having been asked to.
    let text = cluster.must("broker decommission 4");
    assert!(text.ends_with("broker 4 is struck off\n"), "{text}");
    cluster.setups.remove(&4);
    cluster.running.remove(&4);
    cluster.wait_for_health();
    let partition = cluster.partition("risky", 0);
    assert_eq!(ids(&partition["isr"]).len(), 2, "{partition}");
    assert!(!ids(&partition["replicas"]).contains(&4), "{partition}");

    move_slowly(&cluster);
}

/// Replicas that are moved take no more than they are allowed to.
fn move_slowly(cluster: &Cluster) {
    cluster.must("topic create heavy --partitions 1 --replication-factor 1");
    cluster.must("bench produce --topic heavy --records 8000 --record-size 1000 --acks all");
    let lies_on = ids(&cluster.partition("heavy", 0)["replicas"])[0];
    let other = (1..=3).find(|id| *id != lies_on).unwrap();
    let begun = std::time::Instant::now();
    let words = format!("topic reassign heavy --partition 0 --replicas {other} --throttle 2MB");
    cluster.must(&words);
    let took = begun.elapsed().as_secs_f64();
    // 9 MB at 2 MB/s; a first burst and the last second may go quicker.
    assert!((2.0..20.0).contains(&took), "{took} s");
    let records = cluster.must("consume heavy --exit-at-end --format %o");
    assert_eq!(records.lines().count(), 8_800, "with the warm-up");
    lift_limit(cluster, other, lies_on);
}

/// A move under a limit that would take hours is cancelled; then the limit is lifted while it is
/// under way.
fn lift_limit(cluster: &Cluster, from: i64, to: i64) {
    let words = format!("topic reassign heavy --partition 0 --replicas {to}");
    let begin = || {
        let child = cluster.begin(&format!("{words} --throttle 1KB"));
        wait_until("the replica is being added under the limit", || {
            let json = cluster.json("cluster describe --output json");
            let replicas = ids(&cluster.partition("heavy", 0)["replicas"]);
            json["throttle_bytes_per_second"] == 1_000 && replicas.contains(&to)
        });
        child
    };
    let end = |mut child: Child| {
        wait_until("whoever asked for it hears of it", || {
            child.try_wait().unwrap().is_some()
        });
        ended(&child.wait_with_output().unwrap())
    };
    let child = begin();
    let text = cluster.must("topic reassign heavy --partition 0 --cancel");
    let says = format!("is not moved any more; it lies on brokers {from}\n");
    assert!(text.ends_with(&says), "{text}");
    let (code, text, error) = end(child);
    assert_eq!(code, Some(1), "{text}{error}");
    assert!(error.contains("somebody cancelled this move"), "{error}");

    let child = begin();
    assert_eq!(ids(&cluster.partition("heavy", 0)["isr"]), [from]);
    let text = cluster.must(&format!("{words} --throttle 0"));
    let says = format!("lies on brokers {to}\n");
    assert!(text.ends_with(&says), "{text}");
    let (code, text, error) = end(child);
    assert_eq!(code, Some(0), "{text}{error}");
}
