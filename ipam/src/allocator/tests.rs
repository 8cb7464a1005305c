//! The allocator over a store in memory: behaviour, and races in every order.

mod checking;
mod clocks;
mod interleaving;
mod mem_store;
mod sample;
mod scenarios;
mod sticky;
mod sticky_interleaving;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use jiff::Timestamp;
use margay_model::ippool::PoolUse;

use self::mem_store::MemStore;
use super::*;
use crate::pool::Pool;

/// Runs a future that never waits for anything but the store in memory.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(name: &str, cidr: &str, block_len: u8) -> Pool {
    Pool {
        name: name.to_owned(),
        cidr: cidr.parse().unwrap(),
        block_len,
        disabled: false,
        automatic: true,
        uses: vec![PoolUse::Workload],
        selects_node: true,
        namespace_selector: None,
        created: String::new(),
    }
}

fn view(pools: impl IntoIterator<Item = Pool>) -> View {
    View {
        pools: Pools::new(pools),
        reserved: AddressSet::default(),
        config: IpamConfig {
            ip_cooldown_seconds: Some(0),
            ..IpamConfig::default()
        },
    }
}

fn allocator(store: &MemStore, node: &str, view: View) -> Allocator<MemStore> {
    Allocator::new(store.clone(), "/calico", node, view)
}

fn release(handle: &str, second: i64) -> ReleaseRequest {
    ReleaseRequest {
        handle_id: handle.to_owned(),
        now: at(second),
        extra: crate::request::Extra::default(),
    }
}
