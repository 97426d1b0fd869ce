//! The forms that values are written in: how each is read, shown and explained.

use std::fmt::Display;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use strandline_core::topic_config::FlushMode;
use strandline_protocol::ids::BrokerId;

use super::{Address, Backend};

/// One way to write a value.
pub(super) trait Form {
    /// What it is once it is read.
    type Value: PartialOrd;

    /// What is allowed, apart from bounds.
    const ACCEPTS: &'static str;

    /// Reads one text; none if it is not of this form.
    fn read(text: &str) -> Option<Self::Value>;

    /// Reads all texts of a key: exactly one, unless the form is a list.
    fn read_all(texts: &[String]) -> Option<Self::Value> {
        match texts {
            [text] => Self::read(text),
            _ => None,
        }
    }

    /// The value as it stands in TOML; none if it is not set.
    fn show(value: &Self::Value) -> Option<String>;
}

/// A number without a unit.
pub(super) struct Count<T>(PhantomData<T>);
/// A number of bytes.
pub(super) struct Bytes;
/// A time span.
pub(super) struct Time;
/// `HOST:PORT`.
pub(super) struct HostPort;
/// A list of `HOST:PORT`, which may be empty.
pub(super) struct Addresses;
/// `HOST:PORT`, or `off`.
pub(super) struct HostPortOrOff;
/// A list of directories.
pub(super) struct Paths;
/// Any text.
pub(super) struct Text;
/// A value that need not be set.
pub(super) struct Optional<F>(PhantomData<F>);
/// The number of a broker.
pub(super) struct Broker;
/// `ack` or `async`.
pub(super) struct Flush;
/// `mapped` or `pwrite`.
pub(super) struct BackendName;

impl<T: FromStr + Display + PartialOrd> Form for Count<T> {
    type Value = T;
    const ACCEPTS: &'static str = "a whole number";

    fn read(text: &str) -> Option<T> {
        text.parse().ok()
    }

    fn show(value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

impl Form for Bytes {
    type Value = usize;
    const ACCEPTS: &'static str = "a size like 65536 or 64MiB";

    fn read(text: &str) -> Option<usize> {
        let size: ByteSize = text.parse().ok()?;
        usize::try_from(size.as_u64()).ok()
    }

    fn show(value: &usize) -> Option<String> {
        const UNITS: [(usize, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let whole = |unit: &&(usize, &str)| *value != 0 && value.is_multiple_of(unit.0);
        Some(match UNITS.iter().find(whole) {
            Some((bytes, name)) => quoted(&format!("{}{name}", value / bytes)),
            None => value.to_string(),
        })
    }
}

impl Form for Time {
    type Value = Duration;
    const ACCEPTS: &'static str = "a time span like 500ms, 30s or 10m";

    fn read(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok()
    }

    fn show(value: &Duration) -> Option<String> {
        Some(quoted(&humantime::format_duration(*value).to_string()))
    }
}

impl Form for HostPort {
    type Value = Address;
    const ACCEPTS: &'static str = "HOST:PORT or [IPV6]:PORT";

    fn read(text: &str) -> Option<Address> {
        text.parse().ok()
    }

    fn show(value: &Address) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

impl Form for Addresses {
    type Value = Vec<Address>;
    const ACCEPTS: &'static str = "one HOST:PORT or more";

    fn read(text: &str) -> Option<Vec<Address>> {
        Self::read_all(&[text.to_owned()])
    }

    fn read_all(texts: &[String]) -> Option<Vec<Address>> {
        let addresses = texts.iter().map(|text| text.trim().parse().ok());
        let addresses: Vec<Address> = addresses.collect::<Option<_>>()?;
        let usable = addresses
            .iter()
            .all(|address| address.port != 0 && !address.is_wildcard());
        usable.then_some(addresses)
    }

    fn show(value: &Vec<Address>) -> Option<String> {
        let addresses: Vec<String> = value
            .iter()
            .map(|address| quoted(&address.to_string()))
            .collect();
        (!value.is_empty()).then(|| format!("[{}]", addresses.join(", ")))
    }
}

impl Form for HostPortOrOff {
    type Value = Option<Address>;
    const ACCEPTS: &'static str = "HOST:PORT, [IPV6]:PORT or off";

    fn read(text: &str) -> Option<Option<Address>> {
        if text == "off" {
            return Some(None);
        }
        text.parse().ok().map(Some)
    }

    fn show(value: &Option<Address>) -> Option<String> {
        let text = value.as_ref().map(ToString::to_string);
        Some(quoted(text.as_deref().unwrap_or("off")))
    }
}

impl Form for Paths {
    type Value = Vec<PathBuf>;
    const ACCEPTS: &'static str = "one directory or more";

    fn read(text: &str) -> Option<Vec<PathBuf>> {
        Self::read_all(&[text.to_owned()])
    }

    fn read_all(texts: &[String]) -> Option<Vec<PathBuf>> {
        let named = !texts.is_empty() && texts.iter().all(|text| !text.trim().is_empty());
        named.then(|| texts.iter().map(PathBuf::from).collect())
    }

    fn show(value: &Vec<PathBuf>) -> Option<String> {
        let paths: Vec<String> = value
            .iter()
            .map(|path| quoted(&path.to_string_lossy()))
            .collect();
        Some(format!("[{}]", paths.join(", ")))
    }
}

impl Form for Text {
    type Value = String;
    const ACCEPTS: &'static str = "a text that is not empty";

    fn read(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn show(value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

impl<F: Form> Form for Optional<F> {
    type Value = Option<F::Value>;
    const ACCEPTS: &'static str = F::ACCEPTS;

    fn read(text: &str) -> Option<Option<F::Value>> {
        F::read(text).map(Some)
    }

    fn show(value: &Option<F::Value>) -> Option<String> {
        value.as_ref().and_then(F::show)
    }
}

impl Form for Broker {
    type Value = BrokerId;
    const ACCEPTS: &'static str = "a whole number";

    fn read(text: &str) -> Option<BrokerId> {
        text.parse().ok().map(BrokerId)
    }

    fn show(value: &BrokerId) -> Option<String> {
        Some(value.0.to_string())
    }
}

impl Form for Flush {
    type Value = FlushMode;
    const ACCEPTS: &'static str = "ack or async";

    fn read(text: &str) -> Option<FlushMode> {
        [FlushMode::Ack, FlushMode::Async]
            .into_iter()
            .find(|mode| mode.name() == text)
    }

    fn show(value: &FlushMode) -> Option<String> {
        Some(quoted(value.name()))
    }
}

impl Form for BackendName {
    type Value = Backend;
    const ACCEPTS: &'static str = "mapped or pwrite";

    fn read(text: &str) -> Option<Backend> {
        match text {
            "mapped" => Some(Backend::Mapped),
            "pwrite" => Some(Backend::Pwrite),
            _ => None,
        }
    }

    fn show(value: &Backend) -> Option<String> {
        let name = match value {
            Backend::Mapped => "mapped",
            Backend::Pwrite => "pwrite",
        };
        Some(quoted(name))
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
