//! What has ended the quorum on this broker, if anything has.
//!
//! A failed write or sync is for good: what is on the disk is not known any more. Everybody who
//! waits is told, and whoever comes later.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use strandline_protocol::{ErrorCode, messages::Failure};
use strandline_storage::StorageError;
use tokio::sync::watch;

/// See the module. Clones are handles of the same one.
#[derive(Clone)]
pub(in crate::metadata) struct Failing {
    shared: Arc<Shared>,
}

struct Shared {
    text: watch::Sender<Option<String>>,
    code: Mutex<ErrorCode>,
}

impl Failing {
    /// Nothing has failed.
    pub(in crate::metadata) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                text: watch::Sender::new(None),
                code: Mutex::new(ErrorCode::STORAGE_ERROR),
            }),
        }
    }

    /// Tells why, once something has failed.
    pub(in crate::metadata) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.shared.text.subscribe()
    }

    /// How proposals are answered from now on; none if nothing has failed.
    pub(in crate::metadata) fn refusal(&self) -> Option<Failure> {
        let text = self.shared.text.borrow().clone()?;
        Some(Failure::new(*self.shared.code.lock(), text))
    }

    /// The disk has failed.
    pub(in crate::metadata) fn fail(&self, error: &StorageError) {
        let code = if error.is_full() {
            ErrorCode::DISK_FULL
        } else {
            ErrorCode::STORAGE_ERROR
        };
        self.fail_with(code, error);
    }

    /// Something has failed. The first reason stays.
    pub(in crate::metadata) fn fail_with(&self, code: ErrorCode, error: &dyn fmt::Display) {
        let text = format!("the metadata log is offline: {error}; see to the disk, then restart");
        self.shared.text.send_if_modified(|failed| {
            if failed.is_some() {
                return false;
            }
            tracing::error!("{text}");
            *self.shared.code.lock() = code;
            *failed = Some(text);
            true
        });
    }
}
