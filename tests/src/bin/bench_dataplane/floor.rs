//! What nobody can do faster: how soon etcd tells of a write, and how soon the kernel of a member.
//!
//! To be measured while no agent runs, with the client that the agent has and one netlink message.

use std::time::Instant;

use anyhow::{Result, ensure};
use margay_dataplane::netlink::{Batch, Request, Socket};
use margay_dataplane::nft::TABLE_NAME;
use margay_datastore::{Watch, WatchStore as _};
use margay_model::store::Txn;

use crate::host::{BenchHost, MEMBERS, ROOT, member};
use crate::latency::{Probe, QUIET, told};

/// A set beside the agent's.
const SET: &str = "floor";

/// A write of an endpoint until etcd answers, and until it tells who watches.
pub(crate) fn etcd(host: &BenchHost, rounds: usize) -> Result<String> {
    // With a connection of its own, as the agent is.
    let listener = host.store()?;
    let mut watch = {
        let _runtime = host.runtime.enter();
        listener.watch(ROOT, 0)
    };
    let (mut answers, mut events) = (Vec::new(), Vec::new());
    // The first opens the watch.
    for n in 0..=rounds {
        std::thread::sleep(QUIET);
        let (key, value) = member(2 * MEMBERS + n);
        let begun = Instant::now();
        let written = async {
            let written = host.write(Txn::default().put(key, value)).await;
            written.map(|()| begun.elapsed())
        };
        let heard = async { heard(&mut watch).await.map(|()| begun.elapsed()) };
        let (written, heard) = host
            .runtime
            .block_on(async { tokio::join!(written, heard) });
        if n > 0 {
            answers.push(written?);
            events.push(heard?);
        }
    }
    Ok(format!(
        "etcd by itself answers a write after {} and tells of it after {}",
        told(answers),
        told(events)
    ))
}

async fn heard(watch: &mut Watch) -> Result<()> {
    // Events without changes are signs of life.
    while watch.next().await?.changes.is_empty() {}
    Ok(())
}

/// One netlink message for a set of as many members, until the kernel tells of it.
pub(crate) fn kernel(host: &BenchHost, probe: &mut Probe, rounds: usize) -> Result<String> {
    fill(host)?;
    let mut socket = Socket::netfilter()?;
    let (mut returned, mut events) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        probe.settle(host);
        let mut batch = one_member(MEMBERS + n);
        let begun = Instant::now();
        let errors = socket.commit(&mut batch, 1)?;
        ensure!(errors.is_empty(), "{errors:?}");
        returned.push(begun.elapsed());
        probe.heard(host)?;
        events.push(begun.elapsed());
    }
    Ok(format!(
        "the kernel by itself takes a member in {} and tells of it after {}",
        told(returned),
        told(events)
    ))
}

fn fill(host: &BenchHost) -> Result<()> {
    let members: Vec<String> = (0..MEMBERS).map(|n| address(n).to_string()).collect();
    let script = format!(
        "add table inet {TABLE_NAME}\nadd set inet {TABLE_NAME} {SET} {{ type ipv4_addr; elements = {{ {} }} }}\n",
        members.join(", ")
    );
    let file = host.lab.dir().join("floor.nft");
    std::fs::write(&file, script)?;
    let load = format!("nft -f {}", file.display());
    host.host().netns.exec(&load).map(drop)
}

fn address(n: usize) -> std::net::Ipv4Addr {
    (0x1e00_0000 + 2 * n as u32).into()
}

/// Begins and ends a transaction around one element (linux/netfilter/nf_tables.h).
fn one_member(n: usize) -> Batch {
    const BEGIN: u16 = 0x10;
    const END: u16 = 0x11;
    const NEW_ELEMENTS: u16 = 10 << 8 | 12;
    let frame = [0, 0, 0, 10];
    let inet = [1, 0, 0, 0];
    let create = 0x400;
    let mut batch = Batch::new();
    batch.push(BEGIN, 0, &frame, |_| {});
    batch.push(NEW_ELEMENTS, create, &inet, |m: &mut Request<'_>| {
        m.string(1, TABLE_NAME);
        m.string(2, SET);
        m.nest(3, &[], |list| {
            list.nest(1, &[], |element| {
                element.nest(1, &[], |key| key.ip(1, address(n).into()));
            });
        });
    });
    batch.push(END, 0, &frame, |_| {});
    batch
}
