//! The time that an ADD has, told to whoever made it when it is over.

use std::future::Future;
use std::time::Duration;

use margay_api::cni::{CniError, code};
use tokio::time::Instant;

/// Runtimes wait for two minutes and more, the shim for 90 s: an answer that says what is late comes before both.
const DEFAULT_SECS: u64 = 60;
const MOST_SECS: u64 = 85;

/// From the call on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    end: Instant,
    secs: u64,
}

impl Budget {
    /// `add_timeout_seconds` of a configuration, which must not outlast the shim.
    pub(super) fn check(secs: Option<u64>) -> Result<u64, CniError> {
        match secs {
            None => Ok(DEFAULT_SECS),
            Some(secs @ 1..=MOST_SECS) => Ok(secs),
            Some(secs) => Err(CniError::new(
                code::INVALID_CONFIG,
                format!("add_timeout_seconds is {secs}, must be 1 to {MOST_SECS}"),
            )),
        }
    }

    pub(super) fn begin(secs: u64) -> Self {
        Self {
            end: Instant::now() + Duration::from_secs(secs),
            secs,
        }
    }

    /// What `work` gives, unless the time is over first.
    pub(super) async fn within<T>(
        self,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, CniError> {
        let done = tokio::time::timeout_at(self.end, work).await;
        done.map_err(|_elapsed| {
            let msg = format!("ADD has {} s (add_timeout_seconds), and {what}", self.secs);
            CniError::new(code::TRY_AGAIN_LATER, msg)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_says_how_long_and_what_for() {
        let budget = Budget::begin(5);
        assert_eq!(
            budget.within("nothing waits", async { 7 }).await.unwrap(),
            7
        );
        let never = std::future::pending::<()>();
        let error = budget
            .within("the store is silent", never)
            .await
            .unwrap_err();
        assert_eq!(
            (error.code, error.msg.as_str()),
            (
                11,
                "ADD has 5 s (add_timeout_seconds), and the store is silent"
            )
        );
        assert_eq!(Budget::check(None).unwrap(), 60);
        assert!(
            Budget::check(Some(86))
                .unwrap_err()
                .msg
                .contains("must be 1 to 85")
        );
    }
}
