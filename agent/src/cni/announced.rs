//! `wait_announced`: ADD answers once a BGP peer is told of the container's addresses.
//!
//! Told is what the speaker has put into the updates for a peer with a session, which it sends within milliseconds. What
//! the peer makes of it nobody but the peer knows.

use std::net::IpAddr;
use std::time::Duration;

use margay_api::cni::{CniError, code};
use margay_bgp::prefix::Prefix;
use margay_speaker::RouteQuery;

use super::Cni;
use super::budget::Budget;
use super::netconf::Call;
use crate::bgp::BgpHandle;

/// Between two looks; an announcement takes about as long.
const PAUSE: Duration = Duration::from_millis(2);

impl Cni {
    pub(super) async fn announced(
        &self,
        call: &Call,
        ips: &[IpAddr],
        budget: Budget,
    ) -> Result<(), CniError> {
        if !call.wait_announced {
            return Ok(());
        }
        let Some(bgp) = &self.bgp else {
            let msg = "wait_announced is true, and BGP is off on this node";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        for ip in ips {
            let late = format!("no BGP peer has been told of {ip}");
            let told = async {
                while !is_told(bgp, *ip).await {
                    tokio::time::sleep(PAUSE).await;
                }
            };
            budget.within(&late, told).await?;
        }
        Ok(())
    }
}

async fn is_told(bgp: &BgpHandle, ip: IpAddr) -> bool {
    let Some(speaker) = bgp.speaker() else {
        return false;
    };
    let told = speaker.queries.routes(RouteQuery::Told(Prefix::host(ip)));
    told.await.is_ok_and(|peers| !peers.is_empty())
}
