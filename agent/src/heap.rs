//! Memory that nobody uses goes back to the kernel.
//!
//! glibc gives back the end of a heap and keeps what lies between pieces in use. A start frees much of that: the lists of
//! the datastore as they came, what is written to the snapshot, the first rules of everything; and so does each look at
//! all that the kernel has.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::world::World;

/// From being in sync until the snapshot is written, which holds the last copy of the lists.
const AFTER_START: Duration = Duration::from_secs(3);

/// As often as everything is looked at. It takes some milliseconds, of which the agent's threads wait for microseconds.
const EVERY: Duration = Duration::from_secs(60);

/// Gives back what is free, from time to time; for a task of its own, which may be aborted anywhere.
pub(crate) async fn keep_small(mut world: watch::Receiver<Arc<World>>) {
    if world.wait_for(|world| world.in_sync).await.is_err() {
        return;
    }
    sleep(AFTER_START).await;
    loop {
        if tokio::task::spawn_blocking(give_back).await.is_err() {
            debug!("the agent is stopping");
        }
        sleep(EVERY).await;
    }
}

/// Where the allocator is another one, it has ways of its own.
fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate has a safe function for it")]
    // SAFETY: it takes no pointers, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}
