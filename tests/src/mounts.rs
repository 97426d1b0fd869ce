//! Disks for rigs: a file system in a file that can lose its power, and one in memory that can be
//! full. Both need root.
//!
//! A file system in a file is mounted through a loop device with `commit=300`, so that its journal
//! is committed by an fsync or not at all. What was not synced is in the page cache of the mounted
//! file system and not in the file: a copy of the file is the disk after a power cut.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// What a mount is called by `mount`.
#[derive(Debug)]
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(arguments: &[&str], at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        let place = text(at)?;
        run("mount", &[arguments, &[place]].concat())?;
        Ok(Self {
            at: at.to_path_buf(),
        })
    }

    fn unmount(&self) -> anyhow::Result<()> {
        run("umount", &[text(&self.at)?]).map(|_| ())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be unmounted already; otherwise nothing must stay behind a rig that failed.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

/// Whether this process may mount, and what it lacks otherwise.
///
/// # Errors
/// What is missing, and what to do about it.
pub fn check_mounts() -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "this rig mounts file systems: run it as root"
    );
    for program in ["mkfs.ext4", "losetup", "mount", "umount", "cp"] {
        let found = Command::new(program).arg("--version").output();
        anyhow::ensure!(
            found.is_ok(),
            "{program} is missing: install e2fsprogs, mount and util-linux"
        );
    }
    let free = run("losetup", &["--find"]);
    free.context("there is no free loop device: this rig mounts a file system in a file")?;
    Ok(())
}

/// An ext4 file system in a file.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    // Before the device: fields are dropped in this order.
    mounted: Mounted,
    device: LoopDevice,
}

#[derive(Debug)]
struct LoopDevice(String);

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

/// What a loop device has written so far.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    writes: u64,
    sectors: u64,
    in_flight: u64,
}

impl LoopDisk {
    /// A new file system of `mebibytes` MiB in `image`, mounted at `at`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(image: &Path, mebibytes: u64, at: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(image)?;
        file.set_len(mebibytes << 20)?;
        // Nothing is left to be initialised in the background, which would write.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-E", lazy, text(image)?])?;
        Self::mount(image, at)
    }

    /// Mounts the file system in `image` at `at`, recovering its journal.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(image: &Path, at: &Path) -> anyhow::Result<Self> {
        let device = run("losetup", &["--find", "--show", text(image)?])?;
        let device = LoopDevice(device.trim().to_owned());
        let options = ["-t", "ext4", "-o", "commit=300,noatime", &device.0];
        let mounted = Mounted::new(&options, at)?;
        Ok(Self {
            image: image.to_path_buf(),
            mounted,
            device,
        })
    }

    /// Copies the file to `to` as it is now. Returns whether nothing was written meanwhile: a copy
    /// that mixes two moments is no power cut.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy(&self, to: &Path) -> anyhow::Result<bool> {
        let before = self.written()?;
        run(
            "cp",
            &["--sparse=always", "--", text(&self.image)?, text(to)?],
        )?;
        Ok(before.in_flight == 0 && self.written()? == before)
    }

    /// Unmounts it and removes the file.
    ///
    /// # Errors
    /// If it is in use.
    pub fn destroy(self) -> anyhow::Result<()> {
        let image = self.image.clone();
        self.mounted.unmount()?;
        drop(self);
        Ok(std::fs::remove_file(image)?)
    }

    fn written(&self) -> anyhow::Result<Written> {
        let name = self.device.0.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let fields: Vec<u64> = stat
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let [_, _, _, _, writes, _, sectors, _, in_flight, ..] = fields[..] else {
            anyhow::bail!("/sys/block/{name}/stat is not as expected: {stat}");
        };
        Ok(Written {
            writes,
            sectors,
            in_flight,
        })
    }
}

/// A file system in memory.
#[derive(Debug)]
pub struct MemoryDisk {
    mounted: Mounted,
}

impl MemoryDisk {
    /// One of `mebibytes` MiB, mounted at `at`.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(mebibytes: u64, at: &Path) -> anyhow::Result<Self> {
        let size = format!("size={mebibytes}m");
        let options = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        Ok(Self {
            mounted: Mounted::new(&options, at)?,
        })
    }

    /// How much room there is, in bytes.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn available(&self) -> anyhow::Result<u64> {
        let answer = rustix::fs::statvfs(&self.mounted.at)?;
        Ok(answer.f_bavail * answer.f_frsize)
    }

    /// Has only `bytes` of room from now on, whatever it holds.
    ///
    /// # Errors
    /// If it cannot be mounted anew.
    pub fn leave(&self, bytes: u64) -> anyhow::Result<()> {
        let answer = rustix::fs::statvfs(&self.mounted.at)?;
        let used = (answer.f_blocks - answer.f_bfree) * answer.f_frsize;
        self.resize(used + bytes)
    }

    /// Has so many MiB from now on, of which it uses what it uses.
    ///
    /// # Errors
    /// As [`MemoryDisk::leave`].
    pub fn grow(&self, mebibytes: u64) -> anyhow::Result<()> {
        self.resize(mebibytes << 20)
    }

    fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        let options = format!("remount,size={}k", bytes.div_ceil(1 << 10));
        run("mount", &["-o", &options, text(&self.mounted.at)?]).map(|_| ())
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// If it is in use.
    pub fn unmount(self) -> anyhow::Result<()> {
        self.mounted.unmount()
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
