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
    let speaks = |error: &ClientError| !matches!(error, ClientError::Unreachable { .. });
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
