//! That the simulated disk takes what a power cut may take, keeps what it must keep, and fails as
//! it is told. The fault model stands at the top of `storage::fs::simulated`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use strandline_storage::{
    directory::{read_small, write_atomically},
    fs::{
        File, FileSystem, Operation,
        simulated::{Failure, Fault, MachineOff, SimulatedDisk},
    },
};

const SEEDS: u64 = 200;

fn path(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

/// A disk with a directory `/d` that is durable.
fn disk() -> (SimulatedDisk, Arc<dyn FileSystem>) {
    let disk = SimulatedDisk::new(7);
    let fs = disk.file_system();
    fs.create_directory(Path::new("/d")).unwrap();
    fs.sync_directory(Path::new("/")).unwrap();
    (disk, fs)
}

fn durable_file(fs: &Arc<dyn FileSystem>, name: &str, content: &[u8]) -> Arc<dyn File> {
    let file = fs.create(&path(name)).unwrap();
    file.allocate(content.len() as u64).unwrap();
    file.write(0, &[content]).unwrap();
    file.sync().unwrap();
    fs.sync_directory(Path::new("/d")).unwrap();
    file
}

/// What a file holds after a power cut; none if it is gone.
fn content(disk: &SimulatedDisk, name: &str) -> Option<Vec<u8>> {
    let fs = disk.file_system();
    read_small(&*fs, &path(name)).unwrap()
}

#[test]
fn synced_bytes_and_names_survive_every_power_cut() {
    let (disk, fs) = disk();
    let file = durable_file(&fs, "a", &[1; 5000]);
    file.write(100, &[&[2; 50]]).unwrap();
    file.sync().unwrap();
    for seed in 0..SEEDS {
        let found = content(&disk.power_cut(seed), "a").unwrap();
        assert_eq!(found.len(), 5000, "seed {seed}");
        assert!(found[100..150].iter().all(|byte| *byte == 2), "seed {seed}");
        assert!(found[150..].iter().all(|byte| *byte == 1), "seed {seed}");
    }
}

#[test]
fn each_unsynced_sector_survives_or_not_and_may_tear() {
    let (disk, fs) = disk();
    let file = durable_file(&fs, "a", &[1; 2048]);
    file.write(0, &[&[2; 2048]]).unwrap();
    assert_eq!(disk.files_unsynced(), 1);
    let mut patterns = BTreeSet::new();
    let mut torn = 0;
    for seed in 0..SEEDS {
        let found = content(&disk.power_cut(seed), "a").unwrap();
        let mut pattern = Vec::new();
        for sector in found.chunks(512) {
            let new = sector.iter().take_while(|byte| **byte == 2).count();
            assert!(sector[new..].iter().all(|byte| *byte == 1), "seed {seed}");
            torn += usize::from(new > 0 && new < 512);
            pattern.push(new > 0);
        }
        patterns.insert(pattern);
    }
    assert_eq!(
        patterns.len(),
        16,
        "every combination of four sectors is met"
    );
    assert!(torn > 0);
}

#[test]
fn a_version_between_two_syncs_may_be_the_one_that_is_found() {
    let (disk, fs) = disk();
    let file = durable_file(&fs, "a", &[1; 512]);
    for version in [2, 3] {
        file.write(0, &[&[version; 512]]).unwrap();
    }
    let found: BTreeSet<u8> = (0..SEEDS)
        .map(|seed| content(&disk.power_cut(seed), "a").unwrap()[0])
        .collect();
    assert_eq!(found, BTreeSet::from([1, 2, 3]));
}

#[test]
fn allocated_space_that_was_not_synced_may_be_gone_and_reads_as_zeros() {
    let (disk, fs) = disk();
    let file = durable_file(&fs, "a", &[1; 100]);
    file.allocate(10_000).unwrap();
    let mut sizes = BTreeSet::new();
    for seed in 0..SEEDS {
        let found = content(&disk.power_cut(seed), "a").unwrap();
        assert!(found[..100].iter().all(|byte| *byte == 1));
        assert!(found[100..].iter().all(|byte| *byte == 0));
        sizes.insert(found.len());
    }
    assert_eq!(sizes, BTreeSet::from([100, 10_000]));
}

#[test]
fn a_name_needs_a_sync_of_its_directory() {
    let (disk, fs) = disk();
    let file = fs.create(&path("new")).unwrap();
    file.allocate(1).unwrap();
    file.sync().unwrap();
    durable_file(&fs, "old", b"x");
    fs.create(&path("newer")).unwrap().sync().unwrap();
    fs.remove(&path("old")).unwrap();
    let mut found = BTreeSet::new();
    for seed in 0..SEEDS {
        let cut = disk.power_cut(seed);
        assert!(
            content(&cut, "new").is_some(),
            "the sync for `old` was after it"
        );
        found.insert((
            content(&cut, "newer").is_some(),
            content(&cut, "old").is_some(),
        ));
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_rename_is_one_step() {
    let (disk, fs) = disk();
    durable_file(&fs, "final", b"old");
    durable_file(&fs, "temporary", b"new");
    fs.rename(&path("temporary"), &path("final")).unwrap();
    let mut found = BTreeSet::new();
    for seed in 0..SEEDS {
        let cut = disk.power_cut(seed);
        let state = (content(&cut, "temporary"), content(&cut, "final").unwrap());
        found.insert(state);
    }
    let before = (Some(b"new".to_vec()), b"old".to_vec());
    let after = (None, b"new".to_vec());
    assert_eq!(found, BTreeSet::from([before, after]));
}

#[test]
fn a_renamed_directory_takes_its_files_along() {
    let (disk, fs) = disk();
    fs.create_directory(&path("p")).unwrap();
    fs.create(&path("p/a")).unwrap();
    fs.sync_directory(&path("p")).unwrap();
    fs.rename(&path("p"), &path("q")).unwrap();
    fs.sync_directory(Path::new("/d")).unwrap();
    for seed in 0..SEEDS {
        let fs = disk.power_cut(seed).file_system();
        assert!(fs.open(&path("q/a")).is_ok());
        assert!(fs.list(&path("p")).unwrap_err().is_not_found());
    }
}

#[test]
fn what_a_failed_sync_lost_no_later_sync_writes() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        let fs = disk.file_system();
        let file = fs.create(Path::new("/a")).unwrap();
        file.allocate(512).unwrap();
        file.sync().unwrap();
        fs.sync_directory(Path::new("/")).unwrap();
        file.write(0, &[&[9; 512]]).unwrap();
        disk.inject(Fault::next(Operation::Sync, Failure::Broken));
        let error = file.sync().unwrap_err();
        assert_eq!(error.operation, Operation::Sync);
        assert!(!error.is_full());
        assert_eq!(
            file.view(0..1).unwrap()[0],
            9,
            "the page cache still shows it"
        );
        file.sync().unwrap();
        let fs = disk.power_cut(seed).file_system();
        let found = fs.open(Path::new("/a")).unwrap().view(0..512).unwrap();
        lost += usize::from(found[0] == 0);
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn a_killed_process_loses_nothing() {
    let (disk, fs) = disk();
    let file = fs.create(&path("a")).unwrap();
    file.allocate(3).unwrap();
    file.write(0, &[b"abc"]).unwrap();
    let _lock = fs.lock(&path(".lock")).unwrap();
    let boot = fs.incarnation(Path::new("/d")).unwrap();
    let killed = disk.kill();
    assert!(MachineOff::is_cause_of(&file.sync().unwrap_err()));
    assert_eq!(content(&killed, "a").unwrap(), b"abc");
    let fs = killed.file_system();
    fs.lock(&path(".lock")).unwrap();
    assert_eq!(fs.incarnation(Path::new("/d")).unwrap(), boot);
    let fs = killed.power_cut(0).file_system();
    assert_ne!(fs.incarnation(Path::new("/d")).unwrap(), boot);
}

#[test]
fn a_full_disk_refuses_and_takes_again() {
    let (disk, fs) = disk();
    disk.set_capacity(Some(10 * 4096));
    let one = fs.create(&path("one")).unwrap();
    one.allocate(8 * 4096).unwrap();
    let two = fs.create(&path("two")).unwrap();
    assert!(two.allocate(2 * 4096 + 1).unwrap_err().is_full());
    assert_eq!(two.size(), 0);
    assert_eq!(fs.space(Path::new("/d")).unwrap().available, 2 * 4096);
    two.allocate(2 * 4096).unwrap();
    one.truncate(4096).unwrap();
    two.allocate(9 * 4096).unwrap();
    fs.remove(&path("one")).unwrap();
    assert_eq!(fs.space(Path::new("/d")).unwrap().available, 4096);
    let three = fs.create(&path("three")).unwrap();
    three.allocate(1).unwrap();
    fs.rename(&path("three"), &path("two")).unwrap();
    assert_eq!(fs.space(Path::new("/d")).unwrap().available, 9 * 4096);
}

#[test]
fn faults_strike_where_and_when_they_are_told() {
    let (disk, fs) = disk();
    let fault = Fault {
        after: 1,
        times: 2,
        ..Fault::next(Operation::Write, Failure::Full).on("victim")
    };
    disk.inject(fault);
    let victim = fs.create(&path("victim")).unwrap();
    let other = fs.create(&path("other")).unwrap();
    for file in [&victim, &other] {
        file.allocate(1).unwrap();
    }
    let outcomes: Vec<bool> = (0..4).map(|_| victim.write(0, &[b"x"]).is_ok()).collect();
    assert_eq!(outcomes, [true, false, false, true]);
    other.write(0, &[b"x"]).unwrap();
    disk.inject(Fault::next(Operation::Read, Failure::Broken));
    assert!(victim.view(0..1).is_err());
    assert_eq!(&victim.view(0..1).unwrap()[..], b"x");
    disk.inject(Fault::next(Operation::Read, Failure::Broken));
    disk.heal();
    victim.populate(0..1).unwrap();
}

#[test]
fn rot_is_silent_and_stays() {
    let (disk, fs) = disk();
    let file = durable_file(&fs, "a", &[0b1010; 600]);
    disk.rot(&path("a"), 555, 0b0110).unwrap();
    assert!(disk.rot(&path("a"), 600, 1).is_err());
    assert_eq!(file.view(555..556).unwrap()[0], 0b1100);
    let found = content(&disk.power_cut(3), "a").unwrap();
    assert_eq!(found[554..557], [0b1010, 0b1100, 0b1010]);
}

#[test]
fn cold_files_are_resident_once_populated() {
    let (disk, fs) = disk();
    let file = durable_file(&fs, "a", &[1; 600]);
    assert!(file.is_resident(0..600));
    disk.chill();
    assert!(!file.is_resident(0..600));
    file.populate(0..600).unwrap();
    assert!(file.is_resident(0..600));
}

#[test]
fn the_same_seeds_give_the_same_disk() {
    let run = |seed| {
        let (disk, fs) = disk();
        let file = fs.create(&path("a")).unwrap();
        file.allocate(20_000).unwrap();
        file.write(0, &[&[5; 20_000]]).unwrap();
        content(&disk.power_cut(seed), "a")
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn files_replaced_atomically_are_old_or_new_at_every_crash() {
    let old = vec![b'o'; 1500];
    let new = vec![b'n'; 2500];
    let mut seen = BTreeSet::new();
    let prepare = || {
        let (disk, fs) = disk();
        write_atomically(&*fs, &path("c"), &old).unwrap();
        (disk, fs)
    };
    let (disk, fs) = prepare();
    let before = disk.changes();
    write_atomically(&*fs, &path("c"), &new).unwrap();
    let steps = disk.changes() - before;
    assert_eq!(content(&disk.power_cut(1), "c").unwrap(), new);
    for step in 1..=steps {
        let (disk, fs) = prepare();
        disk.crash_after(step);
        let error = write_atomically(&*fs, &path("c"), &new).unwrap_err();
        assert!(MachineOff::is_cause_of(&error));
        for seed in 0..SEEDS {
            let cut = disk.power_cut(seed);
            let found = content(&cut, "c").expect("one of them is there");
            assert!(found == old || found == new, "step {step}, seed {seed}");
            seen.insert((step, found == new));
            // Whatever was left behind does not stop the next one.
            write_atomically(&*cut.file_system(), &path("c"), b"next").unwrap();
            assert_eq!(content(&cut, "c").unwrap(), b"next");
        }
    }
    assert!(seen.iter().any(|(_, is_new)| *is_new));
    assert!(seen.iter().any(|(_, is_new)| !*is_new));
}
