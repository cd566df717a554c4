//! Asking again within a time: one attempt after the other, each with a bound of its own.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::ArbiterError;

/// Bound of one attempt, unless configured otherwise.
pub const ATTEMPT: Duration = Duration::from_secs(1);

/// Pause after every place was asked once without success.
const PAUSE: Duration = Duration::from_millis(100);

/// How an attempt failed.
pub(super) enum Fault {
    /// Another attempt may succeed.
    Passing(String),
    /// No attempt will.
    Final(ArbiterError),
}

/// How often, how long and where.
pub(super) struct Bounds {
    /// Of the whole.
    pub within: Duration,
    /// Of one attempt.
    pub attempt: Duration,
    /// How many places there are to ask; they are asked in turn.
    pub places: usize,
}

/// Attempt with `once(place, until)` until it succeeds, fails for good, or the time is over. At least one attempt begins.
///
/// # Errors
/// That of the last attempt, as [`ArbiterError::Unreachable`], or the final one.
pub(super) async fn persist<T, Attempt>(
    arbiter: &str,
    bounds: Bounds,
    once: impl Fn(usize, Instant) -> Attempt,
) -> Result<T, ArbiterError>
where
    Attempt: Future<Output = Result<T, Fault>>,
{
    let end = Instant::now() + bounds.within;
    let places = bounds.places.max(1);
    let mut place = 0;
    loop {
        let until = end.min(Instant::now() + bounds.attempt);
        let why = match timeout_at(until, once(place, until)).await {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(Fault::Final(error))) => return Err(error),
            Ok(Err(Fault::Passing(why))) => why,
            Err(_) => "an attempt took too long".to_owned(),
        };
        place = (place + 1) % places;
        if place == 0 {
            sleep_until(end.min(Instant::now() + PAUSE)).await;
        }
        if Instant::now() >= end {
            return Err(ArbiterError::Unreachable { arbiter: arbiter.to_owned(), why });
        }
    }
}
