//! A broker as a process of its own: started, asked whether it is ready, stopped, killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpSocket;

/// How long a broker may take to become ready, or to stop, before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The `strandline` binary of this build profile, built on the first call; or the one that the
/// variable `STRANDLINE_TEST_BINARY` names.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn strandline_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = std::env::var_os("STRANDLINE_TEST_BINARY") {
            return PathBuf::from(binary);
        }
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // With the features that all crates together ask for, as the tests are built, so that
        // nothing is built twice.
        build.args(["build", "--quiet", "--workspace", "--bin", "strandline"]);
        build.arg("--message-format=json-render-diagnostics");
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let output = build
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo can be run");
        assert!(output.status.success(), "the broker does not build");
        let messages = String::from_utf8_lossy(&output.stdout);
        let executable = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| Some(message.get("executable")?.as_str()?.to_owned()))
            .next_back();
        PathBuf::from(executable.expect("cargo names the executable"))
    })
}

/// A port of 127.0.0.1 that belongs to this process until it ends: a broker that it starts can
/// listen there, again and again, and nobody else gets it in between.
///
/// A socket is bound to it and never listens. With `SO_REUSEADDR` on both, that keeps the system
/// from giving the port to whoever asks for any or connects, and lets a listener have it.
///
/// # Panics
/// If none is free.
#[must_use]
pub fn kept_port() -> u16 {
    static KEPT: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("its option");
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    socket.bind(any.into()).expect("a free port");
    let port = socket.local_addr().expect("its address").port();
    KEPT.lock().expect("nobody panics with it").push(socket);
    port
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Where a broker runs and what it is told.
#[derive(Clone, Debug)]
pub struct BrokerSetup {
    /// Its data directory.
    pub data: PathBuf,
    /// Its native port, the same over restarts.
    pub port: u16,
    /// Its HTTP port, the same over restarts.
    pub http_port: u16,
    /// Further arguments of `strandline server`.
    pub arguments: Vec<String>,
}

impl BrokerSetup {
    /// A broker on `data`, on two ports of its own.
    #[must_use]
    pub fn on(data: &Path) -> Self {
        let data = data.to_path_buf();
        Self {
            data,
            port: kept_port(),
            http_port: kept_port(),
            arguments: Vec::new(),
        }
    }

    /// With a further argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With further arguments.
    #[must_use]
    pub fn with(self, arguments: &[&str]) -> Self {
        let with_next = |setup: Self, argument: &&str| setup.argument(argument);
        arguments.iter().fold(self, with_next)
    }

    /// Where clients find it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it ends instead, or is not ready within [`PATIENCE`].
    #[must_use]
    pub fn start(&self) -> Broker {
        let mut broker = self.spawn();
        wait_until("the broker's readiness", || {
            if let Some(status) = broker.child.try_wait().expect("its status") {
                panic!("the broker ended with {status}:\n{}", broker.log());
            }
            broker.is_ready()
        });
        broker.ready_after = broker.started.elapsed();
        broker
    }

    /// Starts it, and waits for nothing.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn spawn(&self) -> Broker {
        let mut child = Command::new(strandline_binary())
            .arg("server")
            .args(["--data", self.data.to_str().expect("a path in UTF-8")])
            .args(["--listen", &self.address()])
            .args(["--http", &format!("127.0.0.1:{}", self.http_port)])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker can be run");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("its standard error");
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = lines.lock().expect("the log");
                lines.push_str(&line);
                lines.push('\n');
            }
        });
        Broker {
            setup: self.clone(),
            child,
            log,
            started: Instant::now(),
            ready_after: Duration::ZERO,
        }
    }
}

/// A running broker; it is killed when this is dropped.
#[derive(Debug)]
pub struct Broker {
    setup: BrokerSetup,
    child: Child,
    log: Arc<Mutex<String>>,
    started: Instant,
    ready_after: Duration,
}

impl Broker {
    /// Where clients find it.
    #[must_use]
    pub fn address(&self) -> String {
        self.setup.address()
    }

    /// How it was set up.
    #[must_use]
    pub const fn setup(&self) -> &BrokerSetup {
        &self.setup
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// When the process was started.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Whether it says now that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.http("/readyz")
            .is_some_and(|(status, _)| status == 200)
    }

    /// From the start of the process to its readiness, of one that was waited for.
    #[must_use]
    pub const fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What it has logged so far.
    ///
    /// # Panics
    /// If reading its log panicked.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// What `GET path` of its HTTP listener answers: status and body.
    #[must_use]
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.setup.http_port, path)
    }

    /// Ends the process at once, as `kill -9` does.
    ///
    /// # Panics
    /// If the system does not let it.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// As [`Broker::kill`], for whoever puts another one in its place.
    ///
    /// # Panics
    /// If the system does not let it.
    pub fn kill_now(&mut self) {
        self.child.kill().expect("the broker can be killed");
        self.child.wait().expect("it ends");
    }

    /// Whether the process has not ended.
    ///
    /// # Panics
    /// If the system does not say.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Stops every thread where it is, as `SIGSTOP` does; a system call that waits for the disk
    /// ends first.
    ///
    /// # Panics
    /// If the process has ended, or does not stop within [`PATIENCE`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let is_stopped = |task: PathBuf| {
            // The state follows the name, which is in brackets and may hold anything. It is a small
            // letter while somebody traces the process.
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
            state.is_none_or(|state| state.starts_with(['T', 't']))
        };
        wait_until("the broker's pause", || {
            let tasks = std::fs::read_dir(&tasks).expect("its threads");
            tasks.flatten().all(|task| is_stopped(task.path()))
        });
    }

    /// Lets a paused process go on.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process to stop in order, and does not wait for it.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// How the process has ended; none while it runs.
    ///
    /// # Panics
    /// If the system does not say.
    #[must_use]
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let sent = kill_process(id.expect("a process has a number"), signal);
        sent.expect("the broker runs");
    }

    /// Asks the process to stop, as `kill` does, and waits for it.
    ///
    /// # Panics
    /// If it does not stop within [`PATIENCE`].
    pub fn stop(mut self) -> (ExitStatus, String) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .arg(&id)
            .status()
            .expect("kill can be run");
        assert!(sent.success(), "process {id} is gone already");
        let mut status = None;
        wait_until("the broker's stop", || {
            status = self.child.try_wait().expect("its status");
            status.is_some()
        });
        (status.expect("it has ended"), self.log())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // A broker that has ended by itself cannot be killed any more, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A plain HTTP request to 127.0.0.1; none if nobody answers.
#[must_use]
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
