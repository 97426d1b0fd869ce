//! What every backend of `storage::fs` promises, held against each of them.

use std::{path::Path, sync::Arc};

use strandline_storage::fs::{
    CacheLimits, Entry, FileSystem, mapped::MappedFileSystem, pwrite::PwriteFileSystem,
    simulated::SimulatedDisk,
};

/// Few enough that every test evicts.
const TIGHT: CacheLimits = CacheLimits {
    descriptors: 2,
    mappings: 2,
    mapping_bytes: 64 * 1024,
};

fn on_every_backend(check: impl Fn(&Arc<dyn FileSystem>, &Path)) {
    let backends: Vec<(&str, Arc<dyn FileSystem>)> = vec![
        ("mapped", Arc::new(MappedFileSystem::new(TIGHT))),
        (
            "mapped, default limits",
            Arc::new(MappedFileSystem::new(CacheLimits::of_process())),
        ),
        ("pwrite", Arc::new(PwriteFileSystem::new(TIGHT))),
    ];
    for (name, fs) in backends {
        println!("backend: {name}");
        let directory = tempfile::tempdir().unwrap();
        check(&fs, directory.path());
    }
    // A tmpfs cannot zero a range in one call, and maps all the same.
    if let Ok(directory) = tempfile::tempdir_in("/dev/shm") {
        println!("backend: mapped, on a tmpfs");
        let fs: Arc<dyn FileSystem> = Arc::new(MappedFileSystem::new(TIGHT));
        check(&fs, directory.path());
    }
    println!("backend: simulated");
    let fs = SimulatedDisk::new(1).file_system();
    fs.create_directory(Path::new("/data")).unwrap();
    check(&fs, Path::new("/data"));
}

fn names(fs: &Arc<dyn FileSystem>, directory: &Path) -> Vec<String> {
    let entries = fs.list(directory).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[test]
fn what_is_written_is_read() {
    on_every_backend(|fs, directory| {
        let file = fs.create(&directory.join("a")).unwrap();
        assert_eq!(file.size(), 0);
        file.allocate(200_000).unwrap();
        assert_eq!(file.size(), 200_000);
        assert!(file.view(0..200_000).unwrap().iter().all(|byte| *byte == 0));
        file.write(10, &[b"one", b"", b"two"]).unwrap();
        file.write(131_070, &[&[7; 60_000]]).unwrap();
        file.sync().unwrap();
        assert_eq!(&file.view(9..17).unwrap()[..], b"\0onetwo\0");
        assert!(
            file.view(131_070..191_070)
                .unwrap()
                .iter()
                .all(|byte| *byte == 7)
        );
        assert_eq!(file.view(191_070..191_072).unwrap()[..], [0, 0]);
        file.write(0, &[]).unwrap();
        assert!(file.is_resident(0..200_000));
        file.populate(0..200_000).unwrap();
        file.start_writeback(0..200_000);
        let many: Vec<&[u8]> = std::iter::repeat_n(&b"ab"[..], 3000).collect();
        file.write(1, &many).unwrap();
        assert_eq!(&file.view(5_997..6_002).unwrap()[..], b"abab\0");
    });
}

#[test]
fn ranges_beyond_the_end_are_refused() {
    on_every_backend(|fs, directory| {
        let file = fs.create(&directory.join("a")).unwrap();
        file.allocate(100).unwrap();
        assert!(file.write(95, &[b"123456"]).is_err());
        assert!(file.write(u64::MAX, &[b"1"]).is_err());
        assert!(file.view(0..101).is_err());
        assert!(file.view(101..101).is_err());
        assert!(file.zero(50..101).is_err());
        assert!(file.populate(0..101).is_err());
        assert!(file.truncate(101).is_err());
        assert!(!file.is_resident(0..101));
        assert_eq!(file.view(100..100).unwrap().len(), 0);
        file.allocate(10).unwrap();
        assert_eq!(file.size(), 100);
    });
}

#[test]
fn zeroed_and_cut_bytes_are_gone() {
    on_every_backend(|fs, directory| {
        let file = fs.create(&directory.join("a")).unwrap();
        file.allocate(20_000).unwrap();
        file.write(0, &[&[9; 20_000]]).unwrap();
        file.zero(100..19_000).unwrap();
        let view = file.view(0..20_000).unwrap();
        assert!(view[..100].iter().all(|byte| *byte == 9));
        assert!(view[100..19_000].iter().all(|byte| *byte == 0));
        assert!(view[19_000..].iter().all(|byte| *byte == 9));
        drop(view);
        file.truncate(50).unwrap();
        assert_eq!(file.size(), 50);
        file.allocate(20_000).unwrap();
        let view = file.view(0..20_000).unwrap();
        assert!(view[..50].iter().all(|byte| *byte == 9));
        assert!(view[50..].iter().all(|byte| *byte == 0));
        file.write(10_000, &[b"again"]).unwrap();
        assert_eq!(&file.view(10_000..10_005).unwrap()[..], b"again");
    });
}

#[test]
fn views_outlive_the_file_and_its_handle() {
    on_every_backend(|fs, directory| {
        let path = directory.join("a");
        let file = fs.create(&path).unwrap();
        file.allocate(5).unwrap();
        file.write(0, &[b"bytes"]).unwrap();
        let view = file.view(0..5).unwrap();
        fs.remove(&path).unwrap();
        drop(file);
        for other in 0..10 {
            let file = fs.create(&directory.join(other.to_string())).unwrap();
            file.allocate(5).unwrap();
            file.write(0, &[b"other"]).unwrap();
        }
        assert_eq!(&view[..], b"bytes");
    });
}

#[test]
fn handles_follow_their_file() {
    on_every_backend(|fs, directory| {
        fs.create_directory(&directory.join("old")).unwrap();
        let file = fs.create(&directory.join("old/a")).unwrap();
        file.allocate(5).unwrap();
        file.write(0, &[b"first"]).unwrap();
        file.sync().unwrap();
        let neighbour = fs.create(&directory.join("old-b")).unwrap();
        neighbour.allocate(1).unwrap();
        // Descriptors of synced files are closed now: there may be two.
        let others: Vec<_> = (0..10)
            .map(|other| fs.create(&directory.join(other.to_string())).unwrap())
            .collect();
        fs.rename(&directory.join("old"), &directory.join("new"))
            .unwrap();
        file.write(0, &[b"again"]).unwrap();
        file.sync().unwrap();
        let same = fs.open(&directory.join("new/a")).unwrap();
        assert_eq!(&same.view(0..5).unwrap()[..], b"again");
        assert!(
            fs.open(&directory.join("old/a"))
                .unwrap_err()
                .is_not_found()
        );
        // Replaced by a rename, a file lives on in its handles.
        fs.rename(&directory.join("0"), &directory.join("new/a"))
            .unwrap();
        assert_eq!(&file.view(0..5).unwrap()[..], b"again");
        file.sync().unwrap();
        assert_eq!(fs.open(&directory.join("new/a")).unwrap().size(), 0);
        fs.remove(&directory.join("new/a")).unwrap();
        others[0].allocate(3).unwrap();
        others[0].write(0, &[b"abc"]).unwrap();
        assert_eq!(&others[0].view(0..3).unwrap()[..], b"abc");
        assert_eq!(&file.view(0..5).unwrap()[..], b"again");
        assert_eq!(neighbour.size(), 1);
        fs.remove(&directory.join("old-b")).unwrap();
    });
}

#[test]
fn two_handles_of_one_file_agree() {
    on_every_backend(|fs, directory| {
        let one = fs.create(&directory.join("a")).unwrap();
        let two = fs.open(&directory.join("a")).unwrap();
        one.allocate(10).unwrap();
        assert_eq!(two.size(), 10);
        two.write(0, &[b"seen"]).unwrap();
        assert_eq!(&one.view(0..4).unwrap()[..], b"seen");
    });
}

#[test]
fn names_are_what_was_made_of_them() {
    on_every_backend(|fs, directory| {
        let path = |name: &str| directory.join(name);
        fs.create(&path("b")).unwrap();
        fs.create_directory(&path("a")).unwrap();
        fs.create_directory(&path("a")).unwrap();
        assert!(fs.create_directory(&path("b")).is_err());
        assert!(fs.create_directory(&path("none/a")).is_err());
        assert!(fs.create(&path("b")).is_err());
        assert!(fs.create(&path("none/b")).is_err());
        assert!(fs.open(&path("a")).is_err());
        let expected = [("a", true), ("b", false)].map(|(name, is_directory)| Entry {
            name: name.to_owned(),
            is_directory,
        });
        assert_eq!(fs.list(directory).unwrap(), expected);
        fs.create(&path("a/x")).unwrap();
        assert!(fs.remove_directory(&path("a")).is_err());
        fs.rename(&path("a/x"), &path("b")).unwrap();
        assert_eq!(names(fs, directory), ["a", "b"]);
        fs.remove_directory(&path("a")).unwrap();
        assert!(fs.remove_directory(&path("a")).unwrap_err().is_not_found());
        assert!(fs.remove(&path("a")).unwrap_err().is_not_found());
        assert!(fs.list(&path("a")).unwrap_err().is_not_found());
        assert!(
            fs.rename(&path("a"), &path("c"))
                .unwrap_err()
                .is_not_found()
        );
        fs.sync_directory(directory).unwrap();
        assert!(fs.sync_directory(&path("a")).is_err());
    });
}

#[test]
fn a_lock_is_held_once() {
    on_every_backend(|fs, directory| {
        let path = directory.join(".lock");
        let lock = fs.lock(&path).unwrap();
        assert!(fs.lock(&path).unwrap_err().is_locked());
        drop(lock);
        fs.lock(&path).unwrap();
    });
}

#[test]
fn the_machine_is_known() {
    on_every_backend(|fs, directory| {
        let space = fs.space(directory).unwrap();
        assert!(space.available <= space.total);
        assert!(space.total > 0);
        let incarnation = fs.incarnation(directory).unwrap();
        assert!(!incarnation.boot_id.is_empty());
        assert_eq!(fs.incarnation(directory).unwrap(), incarnation);
    });
}

#[test]
fn hundreds_of_files_fit_into_two_descriptors() {
    let fs = MappedFileSystem::new(TIGHT);
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..300_u32)
        .map(|number| {
            let file = fs
                .create(&directory.path().join(number.to_string()))
                .unwrap();
            file.allocate(8).unwrap();
            file.write(0, &[&number.to_be_bytes()]).unwrap();
            file.sync().unwrap();
            file
        })
        .collect();
    assert!(fs.descriptors_open() <= 4, "{}", fs.descriptors_open());
    assert!(fs.mappings_open() <= 4, "{}", fs.mappings_open());
    for (file, number) in files.iter().zip(0_u32..) {
        file.write(4, &[b"more"]).unwrap();
        let expected = [&number.to_be_bytes()[..], b"more"].concat();
        assert_eq!(&file.view(0..8).unwrap()[..], expected);
    }
    // Every one has unsynced data now, so none may be closed.
    assert_eq!(fs.descriptors_open(), 300);
    for file in &files {
        file.sync().unwrap();
    }
    for number in 0..20 {
        fs.create(&directory.path().join(format!("more-{number}")))
            .unwrap();
    }
    assert!(fs.descriptors_open() < 300);
    drop(files);
    assert!(fs.descriptors_open() <= 2, "{}", fs.descriptors_open());
    assert_eq!(fs.mappings_open(), 0);
}

#[test]
fn threads_that_share_two_descriptors_see_their_own_bytes() {
    on_every_backend(|fs, directory| {
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                scope.spawn(move || {
                    let mut path = directory.join(format!("{thread}-0"));
                    let file = fs.create(&path).unwrap();
                    file.allocate(40_000).unwrap();
                    for round in 0..40_u64 {
                        let at = round * 1000;
                        // By mapping and by `pwritev`.
                        let length = if round % 2 == 0 { 1000 } else { 3000 };
                        let bytes = vec![thread; length.min(40_000 - at as usize)];
                        file.write(at, &[&bytes]).unwrap();
                        if round % 4 == 0 {
                            file.sync().unwrap();
                        }
                        let next = directory.join(format!("{thread}-{}", round + 1));
                        fs.rename(&path, &next).unwrap();
                        path = next;
                        let view = file.view(0..at + 1000).unwrap();
                        assert!(view.iter().all(|byte| *byte == thread));
                    }
                    fs.remove(&path).unwrap();
                    assert!(
                        file.view(0..40_000)
                            .unwrap()
                            .iter()
                            .all(|byte| *byte == thread)
                    );
                });
            }
        });
        assert_eq!(names(fs, directory), Vec::<String>::new());
    });
}

#[test]
fn one_for_reading_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    std::fs::write(&path, b"what is there").unwrap();
    let fs = MappedFileSystem::for_reading(TIGHT);
    let file = fs.open(&path).unwrap();
    assert_eq!(file.view(0..4).unwrap(), "what");
    // A write that small goes through a mapping elsewhere.
    assert!(file.write(0, &[b"else"]).is_err());
    assert!(file.write(0, &[&[7; 13]]).is_err());
    assert!(file.truncate(2).is_err());
    assert!(file.zero(0..4).is_err());
    assert!(file.allocate(10_000).is_err());
    drop(file);
    assert_eq!(std::fs::read(&path).unwrap(), b"what is there");
    // It waits for nobody's lock file either.
    assert!(fs.lock(&directory.path().join(".lock")).is_err());
    assert!(!directory.path().join(".lock").exists());
}
