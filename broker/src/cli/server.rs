//! `strandline server`: resolves the settings, shows them or runs the broker.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{error::CommandError, output::print_text};
use crate::{
    logging, server,
    settings::{Inputs, Settings, SettingsError},
};

const EXAMPLES: &str = "\
Examples:
  strandline server
  strandline server --data /disk1/strandline,/disk2/strandline --flush async
  strandline server --listen 0.0.0.0:9290 --advertise broker1.example:9290
  strandline server --node-id 2 --data ./second --listen 127.0.0.1:9390 --join 127.0.0.1:9290
  strandline server --config strandline.toml --print-config

Settings come from the built-in defaults, the file of --config, variables STRANDLINE_* and flags;
the later one wins. The process stops in order on SIGTERM and SIGINT.";

/// When a broker may acknowledge a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlushFlag {
    /// Once it is on the disk.
    Ack,
    /// Once it is in the page cache; the disk follows in the background.
    Async,
}

impl FlushFlag {
    const fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Async => "async",
        }
    }
}

/// Start a broker.
///
/// Needs nothing configured: data in ./strandline-data, clients on 127.0.0.1:9290, HTTP with
/// /metrics, /healthz and /readyz on 127.0.0.1:9291.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServerArguments {
    /// A TOML file of settings; unknown keys are refused.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the logs lie: one directory per disk.
    #[arg(long, value_name = "DIR[,DIR..]", value_delimiter = ',')]
    pub data: Vec<String>,
    /// Where clients connect; port 0 takes any free one.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where HTTP is served: metrics, health and readiness.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// What clients elsewhere are told to connect to; needed with a wildcard in --listen.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Become part of the cluster that these brokers belong to: at the first start.
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT..]", value_delimiter = ',')]
    pub join: Vec<String>,
    /// The number of this broker in its cluster.
    #[arg(long, value_name = "NUMBER")]
    pub node_id: Option<String>,
    /// Where this broker stands: replicas are spread over racks.
    #[arg(long, value_name = "NAME")]
    pub rack: Option<String>,
    /// When a record counts as acknowledged, for topics that do not say otherwise.
    #[arg(long, value_name = "WHEN", value_enum)]
    pub flush: Option<FlushFlag>,
    /// Which log lines are written to standard error: a level, or levels by module.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Print the settings in force and where each comes from, and exit.
    #[arg(long)]
    pub print_config: bool,
}

impl ServerArguments {
    /// Runs the broker until it is told to stop.
    ///
    /// # Errors
    /// If a setting is wrong or the broker cannot start.
    pub fn run(self) -> Result<(), CommandError> {
        let print_config = self.print_config;
        let settings = Settings::resolve(&self.inputs()).map_err(|error| refused(&error))?;
        if print_config {
            return print_text(&settings.render_effective());
        }
        logging::start(&settings.log)
            .map_err(|error| CommandError::usage_with_remedy(&error.to_string()))?;
        server::run(settings)
            .map_err(|error| CommandError::failure_with_remedy(&format!("{error:#}")))
    }

    /// The variables of the process, and over them what was given on the command line.
    fn inputs(self) -> Inputs {
        let mut inputs = Inputs::from_variables(std::env::vars_os());
        if let Some(path) = self.config {
            inputs.config(path);
        }
        if !self.data.is_empty() {
            inputs.flag("data", self.data);
        }
        if !self.join.is_empty() {
            inputs.flag("join", self.join);
        }
        let single = [
            ("listen", self.listen),
            ("http", self.http),
            ("advertise", self.advertise),
            ("node_id", self.node_id),
            ("rack", self.rack),
            ("flush", self.flush.map(|flush| flush.name().to_owned())),
            ("log", self.log),
        ];
        for (key, value) in single {
            if let Some(value) = value {
                inputs.flag(key, [value]);
            }
        }
        inputs
    }
}

/// A file that cannot be read is a failure; what is wrong in itself is wrong use.
fn refused(error: &SettingsError) -> CommandError {
    let text = error.to_string();
    match error {
        SettingsError::Unreadable { path, source } => {
            let what = format!("cannot read the configuration file {}", path.display());
            CommandError::io(what, source).hint("check the path given to --config")
        }
        _ => CommandError::usage_with_remedy(&text),
    }
}
