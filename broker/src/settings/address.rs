//! A host and a port, as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Where to listen or to connect: a name or an IP address, and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port; 0 takes any free one when it is listened on.
    pub port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HOST:PORT is allowed, or [IPV6]:PORT")]
pub struct BadAddress;

impl Address {
    /// Whether it stands for every address of the machine, so that nobody can connect to it.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_unspecified())
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner.parse::<Ipv6Addr>().map(|_| inner).ok(),
            None => Some(host).filter(|host| is_name(host)),
        };
        Ok(Self {
            host: host.ok_or(BadAddress)?.to_owned(),
            port: port.parse().map_err(|_| BadAddress)?,
        })
    }
}

fn is_name(host: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !host.is_empty() && host.chars().all(allowed)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_are_written() {
        for text in [
            "127.0.0.1:9290",
            "broker-1.example:0",
            "[::1]:9290",
            "[::]:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "", "9290", ":9290", "*:9290", "::1:9290", "[x]:1", "a b:1", "a:65536",
        ] {
            assert_eq!(text.parse::<Address>(), Err(BadAddress), "{text}");
        }
    }

    #[test]
    fn wildcards_are_known() {
        for (text, wildcard) in [
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("127.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_wildcard(), wildcard);
        }
    }
}
