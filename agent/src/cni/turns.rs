//! One call at a time for a container, any number of containers at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Turns by container id.
///
/// A lock rather than an owning task, because what it guards is time, not state: a handler holds its
/// container's turn while it awaits the kernel and the store.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_container: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits until no other call for this container is under way. First come, first served.
    pub(crate) async fn take(&self, container_id: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut map = self
                .by_container
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Nobody else holds an idle turn, so forgetting it loses nothing.
            map.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(map.entry(container_id.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_for_one_container_wait_and_others_do_not() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let _other = turns.take("b").await;
        let waiting = turns.take("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        let _second = waiting.await;
    }

    #[tokio::test]
    async fn idle_turns_are_forgotten() {
        let turns = Turns::default();
        for i in 0..100 {
            drop(turns.take(&format!("c{i}")).await);
        }
        assert!(turns.by_container.lock().unwrap().len() <= 1);
    }
}
