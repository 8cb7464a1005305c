//! Waiting for a condition with a deadline instead of sleeping.

use std::env;
use std::fmt::Display;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::interrupt::ensure_not_interrupted;

/// How long something may take.
pub type Deadline = Duration;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How many times longer than usual everything may take: `MARGAY_LAB_PATIENCE`, for a machine that is emulated.
pub(crate) fn patience() -> u32 {
    static TIMES: OnceLock<u32> = OnceLock::new();
    *TIMES.get_or_init(|| {
        let set = env::var("MARGAY_LAB_PATIENCE").ok();
        set.and_then(|text| text.parse().ok()).unwrap_or(1)
    })
}

/// How long a request to etcd may take, in milliseconds: on a loaded machine etcd may not get to a processor within the
/// five seconds that are usual.
pub(crate) const REQUEST_MS: u32 = 30_000;

/// What tells a program that talks to etcd of a limit.
pub(crate) fn request_env(millis: u32) -> (&'static str, String) {
    let limit = millis * patience();
    ("ETCD_REQUEST_TIMEOUT_MS", limit.to_string())
}

/// Tries `look` until it answers `Ok`; fails with its last answer when the deadline is over.
pub fn eventually<T, E: Display>(
    deadline: Deadline,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let deadline = deadline * patience();
    let end = Instant::now() + deadline;
    loop {
        ensure_not_interrupted()?;
        match look() {
            Ok(found) => return Ok(found),
            Err(missing) if Instant::now() >= end => {
                return Err(anyhow!(
                    "{what}: not within {:.1} s: {missing:#}",
                    deadline.as_secs_f32()
                ));
            }
            Err(_not_yet) => sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing_when_time_is_up() {
        let mut looks = 0;
        let error = eventually(Duration::from_millis(50), "three looks", || {
            looks += 1;
            Err::<(), _>(format!("{looks} so far"))
        })
        .unwrap_err();
        assert!(looks > 1);
        assert!(
            error
                .to_string()
                .starts_with("three looks: not within 0.1 s: ")
        );
    }
}
