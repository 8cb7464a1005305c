//! Gives back addresses that nobody can be using: of this host, and of hosts that are gone.
//!
//! Every agent looks through its own blocks, and those of others in which it holds addresses. One at a time,
//! chosen by a claim in the datastore, also looks through everybody's: leases of identities that are over,
//! and what nodes left whose Node resource was deleted. A node that is only silent is reported, never
//! cleared: its containers may well be running.
//!
//! Two looks and a grace period come before anything but an ended lease is given back, and each release
//! compares the sequence number that was seen. A second leader would do no harm.

mod borrowed;
mod dead;
mod own;

use std::sync::Arc;
use std::time::Duration;

use margay_datastore::{AnyStore, Claim};
use margay_ipam::sticky::Held;
use margay_ipam::{Allocator, View, own_keys};
use margay_model::keys::Keys;
use margay_model::store::StoreError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::ipam_task::{IpamHandle, TaskError};
use crate::meters::Meters;
use crate::world::World;
use dead::Dead;
use own::Own;

/// A claim outlives this many missed looks.
const MISSED_LOOKS: u32 = 3;
/// And a slow datastore.
const SLACK: Duration = Duration::from_secs(5);

/// What the collector works with.
pub(crate) struct Collector {
    pub(crate) node: String,
    pub(crate) keys: Keys,
    pub(crate) store: AnyStore,
    pub(crate) ipam: IpamHandle,
    pub(crate) world: watch::Receiver<Arc<World>>,
    /// Between two looks.
    pub(crate) interval: Duration,
    /// How long something must have been left over.
    pub(crate) grace: Duration,
    pub(crate) meters: Arc<Meters>,
}

#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl Collector {
    /// Looks until it is cancelled; then it gives up its claims.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let ttl = self.interval * MISSED_LOOKS + SLACK;
        let root = self.keys.prefix();
        let claim = |key: String| Claim::new(key, self.node.clone(), ttl);
        let mut alive = claim(own_keys::alive(root) + &self.node);
        let mut leader = claim(own_keys::collector(root));
        if let Err(error) = self.store.hold(&mut alive).await {
            debug!(%error, "the sign of life waits");
        }
        // An allocator of its own, so that no ADD waits for a dead node's thousand addresses.
        let mut allocator = Allocator::new(
            self.store.clone(),
            self.keys.prefix(),
            &self.node,
            View::default(),
        );
        let (mut own, mut dead, mut leads) = (Own::default(), Dead::default(), false);
        loop {
            // Cancel-safe: a token and a timer.
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(self.interval) => {}
            }
            if !self.world.borrow().in_sync {
                continue;
            }
            if self.world.borrow().locked {
                // What is missing may be about to be imported. Suspicions start over; the sign of life goes on.
                (own, dead) = (Own::default(), Dead::default());
                if let Err(error) = self.store.hold(&mut alive).await {
                    debug!(%error, "the sign of life waits");
                }
                continue;
            }
            let look = self.look(
                (&mut alive, &mut leader, &mut leads),
                &mut allocator,
                &mut own,
                &mut dead,
            );
            if let Err(error) = look.await {
                debug!(%error, "left-over addresses wait");
            }
        }
        for claim in [&mut alive, &mut leader] {
            if let Err(error) = self.store.let_go(claim).await {
                debug!(%error, "a claim is left to its time");
            }
        }
    }

    async fn look(
        &self,
        (alive, leader, leads): (&mut Claim, &mut Claim, &mut bool),
        allocator: &mut Allocator<AnyStore>,
        own: &mut Own,
        dead: &mut Dead,
    ) -> Result<(), CollectError> {
        self.store.hold(alive).await?;
        allocator.set_view(self.ipam.view().await?);
        let held = allocator.held_nearby().await?;
        end_leases(allocator, &held).await;
        let orphans = own.orphans(held, self);
        self.meters.leak_suspects.set(own.suspects() as u64);
        if !orphans.is_empty() {
            let freed = self.ipam.release_orphans(orphans).await?;
            self.meters.leaks_freed.add(freed);
        }
        let led = std::mem::replace(leads, self.store.hold(leader).await?);
        if *leads && !led {
            info!("this agent clears up after nodes that are gone");
        }
        match *leads {
            true => dead.look(self, allocator).await,
            false => {
                // Whoever leads next sees everything twice itself.
                *dead = Dead::default();
                Ok(())
            }
        }
    }
}

/// Frees parked addresses whose time is over.
async fn end_leases(allocator: &mut Allocator<AnyStore>, held: &[Held]) {
    let now = jiff::Timestamp::now();
    for held in held.iter().filter(|held| held.is_expired(now)) {
        let identity = held.attr(margay_ipam::sticky::IDENTITY);
        let ip = held.address.ip;
        match allocator.release_ip(held.release(now)).await {
            Ok(_) => info!(%ip, identity, "lease is over, address given back"),
            Err(error) => warn!(%ip, identity, %error, "lease is over, address kept"),
        }
    }
}
