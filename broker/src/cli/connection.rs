//! `--bootstrap`, the runtime of a command, and what a client's errors mean to a person.

use std::future::Future;

use clap::Args;

use super::error::CommandError;

/// How a command finds its broker.
#[derive(Clone, Debug, Args)]
pub struct ConnectionArguments {
    /// Brokers to ask first; any one of a cluster will do.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT[,..]",
        value_delimiter = ',',
        value_parser = address,
        default_value = "127.0.0.1:9290"
    )]
    pub bootstrap: Vec<String>,
}

impl ConnectionArguments {
    /// Runs a command on a runtime of its own.
    ///
    /// # Errors
    /// What the command ends with, or that the runtime cannot be built.
    pub fn block_on<F>(&self, command: F) -> Result<(), CommandError>
    where
        F: Future<Output = Result<(), CommandError>>,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| CommandError::io("cannot start", &error))?;
        runtime.block_on(command)
    }
}

/// Checks that a bootstrap address has a host and a port.
fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT such as 127.0.0.1:9290".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for text in [
            "127.0.0.1:9290",
            "localhost:1",
            "[::1]:9290",
            "a.b.example:65535",
        ] {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in ["", "localhost", ":9290", "a:0", "a:65536", "a:b", "9290"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
