//! Peers on an interface, without configured addresses: a task for each tells the link that we are
//! a router and hears which other is there (RFC 4861).

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{interval, sleep},
};
use tracing::{info, warn};

use super::{Event, core::Core};
use crate::{
    peer_key::{BGP_PORT, Interface, PeerKey},
    router_adv::{Advertiser, Heard, INTERVAL},
    view::PathState,
};

/// Between attempts on an interface that is not there, or down.
const RETRY: Duration = Duration::from_secs(1);
/// RFC 4861 section 10, MIN_DELAY_BETWEEN_RAS: questions are answered at most so often.
const ANSWER_PAUSE: Duration = Duration::from_secs(3);

/// Watches an interface until it is dropped. The task owns nothing but its socket and may be
/// aborted at any time.
#[derive(Debug)]
pub(super) struct Watch(AbortHandle);

impl Watch {
    pub(super) fn start(key: PeerKey, interface: Interface, events: mpsc::Sender<Event>) -> Self {
        Self(tokio::spawn(watch(key, interface, events)).abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(key: PeerKey, interface: Interface, events: mpsc::Sender<Event>) {
    let mut said = String::new();
    loop {
        // Ends with an error, or when the speaker stops.
        let Err(error) = on_link(key, interface, &events).await else {
            return;
        };
        let text = error.to_string();
        if text != said {
            warn!(interface = interface.name(), %error, "cannot look for a router");
            said = text;
        }
        sleep(RETRY).await;
    }
}

async fn on_link(
    key: PeerKey,
    interface: Interface,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "there is no such interface");
    let index = interface.index().ok_or_else(gone)?;
    let advertiser = Advertiser::open(index)?;
    advertiser.solicit()?;
    let mut turn = interval(INTERVAL);
    let mut answered: Option<Instant> = None;
    loop {
        // Cancel safe: `hear` and `tick` take nothing when dropped.
        let heard = tokio::select! {
            heard = advertiser.hear() => Some(heard?),
            _ = turn.tick() => None,
        };
        match heard {
            Some(Heard::Router(addr)) => {
                if events.send(Event::Router(key, addr, index)).await.is_err() {
                    return Ok(());
                }
            }
            Some(Heard::Question) => {
                if answered.is_none_or(|at| at.elapsed() >= ANSWER_PAUSE) {
                    answered = Some(Instant::now());
                    advertiser.advertise()?;
                }
            }
            None if interface.index() != Some(index) => return Err(gone()),
            None => advertiser.advertise()?,
        }
    }
}

impl Core {
    /// The router behind an interface said that it is there, or connected.
    pub(super) fn meet(&mut self, key: &PeerKey, addr: Ipv6Addr, scope: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let port = key.port.unwrap_or(BGP_PORT);
        let target = SocketAddr::from(SocketAddrV6::new(addr, port, 0, scope));
        // Of two on one link the first is the peer, as long as it is there.
        if peer.neighbour == Some(target) || (peer.neighbour.is_some() && !peer.links.is_empty()) {
            return;
        }
        peer.span.in_scope(|| info!(%addr, "a router is there"));
        peer.neighbour = Some(target);
        if peer.config.password.is_some() {
            self.set_keys();
        }
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.config.bfd.is_some() {
            // Of this one nothing has been heard.
            peer.path = Some(PathState::Down);
            self.watch();
        }
        self.start(key, now);
    }
}
