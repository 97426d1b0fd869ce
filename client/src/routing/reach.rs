//! The first of several brokers that answers.
//!
//! A host that is gone answers nothing at all, and its connection attempt takes as long as it may.
//! So the next address is tried after a short head start, while the first is still being waited for
//! (as RFC 8305 does with the addresses of one host).

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use strandline_protocol::ErrorCode;

use super::Links;
use crate::{ClientError, connection::Connection};

/// How long an address is tried alone before the next one is tried beside it: longer than a
/// connection takes over a distance, shorter than people notice.
const HEAD_START: Duration = Duration::from_millis(250);

type Attempt<'a> = Pin<Box<dyn Future<Output = (usize, Outcome)> + Send + 'a>>;
type Outcome = Result<Connection, ClientError>;

/// Tries the addresses in their order, once each. Cancel safe.
///
/// # Errors
/// What a broker said that answers and refuses; else [`ClientError::Unreachable`], which says of
/// each address why.
pub(super) async fn first_that_answers(
    links: &Links,
    addresses: &[String],
) -> Result<(String, Connection), ClientError> {
    let mut attempts: Vec<Attempt<'_>> = Vec::new();
    let mut failures: Vec<(usize, ClientError)> = Vec::new();
    let mut next = addresses.iter().enumerate();
    loop {
        if let Some((index, address)) = next.next() {
            let attempt = async move { (index, links.connection(address).await) };
            attempts.push(Box::pin(attempt));
        }
        if attempts.is_empty() {
            return Err(combined(addresses, failures));
        }
        let (index, outcome) = tokio::select! {
            biased;
            ended = any_of(&mut attempts) => ended,
            () = tokio::time::sleep(HEAD_START), if next.len() > 0 => continue,
        };
        match outcome {
            Ok(connection) => {
                let address = addresses.get(index).cloned().unwrap_or_default();
                return Ok((address, connection));
            }
            Err(error) => failures.push((index, error)),
        }
    }
}

/// What several failures say together.
fn combined(addresses: &[String], mut failures: Vec<(usize, ClientError)>) -> ClientError {
    failures.sort_by_key(|(index, _)| *index);
    // One failure speaks for itself, and so does a broker that answers and refuses.
    // A broker of another cluster says nothing of one that cannot be reached now.
    let is_unreachable = |error: &ClientError| matches!(error, ClientError::Unreachable { .. });
    let any_unreachable = failures.iter().any(|(_, error)| is_unreachable(error));
    let is_foreign = |error: &ClientError| {
        let code = match error {
            ClientError::Refused { code, .. } => *code,
            _ => ErrorCode::NONE,
        };
        code == ErrorCode::INCONSISTENT_CLUSTER_ID
    };
    let speaks =
        |error: &ClientError| !(is_unreachable(error) || any_unreachable && is_foreign(error));
    if let Some(at) = failures.iter().position(|(_, error)| speaks(error)) {
        return failures.swap_remove(at).1;
    }
    if failures.len() == 1
        && let Some((_, error)) = failures.pop()
    {
        return error;
    }
    let told = failures.iter().map(|(index, error)| {
        let address = addresses.get(*index).map_or("", String::as_str);
        match error {
            ClientError::Unreachable { reason, .. } => format!("{address}: {reason}"),
            other => format!("{address}: {other}"),
        }
    });
    let told: Vec<String> = told.collect();
    let (address, reason) = if told.is_empty() {
        ("a broker".to_owned(), "no address is given".to_owned())
    } else {
        let count = told.len();
        (format!("any of {count} brokers"), told.join(", "))
    };
    ClientError::Unreachable { address, reason }
}

/// The next of the attempts that is done.
async fn any_of(attempts: &mut Vec<Attempt<'_>>) -> (usize, Outcome) {
    poll_fn(|context: &mut Context<'_>| {
        for at in 0..attempts.len() {
            if let Some(attempt) = attempts.get_mut(at)
                && let Poll::Ready(outcome) = attempt.as_mut().poll(context)
            {
                drop(attempts.swap_remove(at));
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> ClientError {
        ClientError::Unreachable {
            address: "a:1".to_owned(),
            reason: "connection refused".to_owned(),
        }
    }

    fn refused(code: ErrorCode) -> ClientError {
        ClientError::Refused {
            subject: "Hello".to_owned(),
            code,
            message: "this is cluster X".to_owned(),
        }
    }

    #[test]
    fn a_broker_of_another_cluster_does_not_speak_for_those_that_are_down() {
        let addresses = ["a:1".to_owned(), "b:2".to_owned()];
        let both = |first, second| combined(&addresses, vec![(0, first), (1, second)]);
        let foreign = || refused(ErrorCode::INCONSISTENT_CLUSTER_ID);
        let told = both(unreachable(), foreign());
        assert!(matches!(told, ClientError::Unreachable { .. }), "{told}");
        assert!(told.to_string().contains("this is cluster X"), "{told}");
        let told = both(foreign(), foreign());
        assert!(matches!(told, ClientError::Refused { .. }), "{told}");
        let told = both(unreachable(), refused(ErrorCode::INVALID_REQUEST));
        assert!(matches!(told, ClientError::Refused { .. }), "{told}");
    }
}
