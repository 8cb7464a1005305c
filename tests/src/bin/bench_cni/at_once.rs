//! Many callers at once: what a node does when it starts, or is drained.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use margay_dataplane::attach::{self, AttachSpec};
use margay_dataplane::route_table::{self, Route, RouteTable};
use margay_lab::NetNs;

use crate::call::Plugin;
use crate::cpu;
use crate::host::{BenchHost, interface_count};

/// How many callers there are.
const CALLERS: [usize; 3] = [1, 8, 50];
/// Calls of each verb: enough for a median, few enough for namespaces.
const FEWEST: usize = 40;
const EACH: usize = 2;
const PAUSE: Duration = Duration::from_millis(300);

/// All calls of a verb.
#[derive(Debug, Default)]
pub(crate) struct Verb {
    pub(crate) walls: Vec<Duration>,
    /// From the first call to the last answer.
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

/// Of one kind of plugin with so many callers.
#[derive(Debug)]
pub(crate) struct AtOnce {
    pub(crate) callers: usize,
    pub(crate) who: &'static str,
    pub(crate) add: Verb,
    pub(crate) check: Verb,
    pub(crate) del: Verb,
}

/// Everybody in turns, the callers fewest first.
pub(crate) fn all(host: &BenchHost) -> Result<Vec<AtOnce>> {
    let mut all = Vec::new();
    for callers in CALLERS {
        for (who, plugin) in [
            ("margay", &host.ours),
            ("ptp + host-local", &host.theirs),
            ("bridge + host-local", &host.bridge),
        ] {
            margay_lab::ensure_not_interrupted()?;
            all.push(of_plugin(host, callers, who, plugin)?);
        }
        all.push(of_kernel(host, callers)?);
    }
    Ok(all)
}

fn containers(host: &BenchHost, prefix: &str, callers: usize) -> Result<Vec<NetNs>> {
    let count = FEWEST.max(callers * EACH);
    (0..count)
        .map(|n| host.container(&format!("{prefix}{n}")))
        .collect()
}

fn of_plugin(
    host: &BenchHost,
    callers: usize,
    who: &'static str,
    plugin: &Plugin,
) -> Result<AtOnce> {
    let containers = containers(host, "q", callers)?;
    let interfaces = interface_count()?;
    let spent =
        || -> Result<Duration> { Ok(cpu::of_children()? + cpu::of_process(host.agent_pid)?) };
    let results: Vec<Mutex<String>> = containers.iter().map(|_| Mutex::default()).collect();
    let result = |n: usize| {
        results[n]
            .lock()
            .map_err(|_poisoned| anyhow!("a caller panicked"))
    };
    let add = verb(callers, &containers, spent, |n, container| {
        *result(n)? = plugin.add(container)?.printed;
        Ok(())
    })?;
    thread::sleep(PAUSE);
    let check = verb(callers, &containers, spent, |n, container| {
        plugin.check(container, &result(n)?.clone()).map(drop)
    })?;
    thread::sleep(PAUSE);
    let del = verb(callers, &containers, spent, |_, container| {
        plugin.del(container).map(drop)
    })?;
    host.settle(interfaces)?;
    thread::sleep(PAUSE);
    Ok(AtOnce {
        callers,
        who,
        add,
        check,
        del,
    })
}

/// Nobody's protocol number.
const PROTO_FLOOR: u8 = 201;

/// The floor: what the kernel takes for the same interface, addresses and routes, in this process.
fn of_kernel(host: &BenchHost, callers: usize) -> Result<AtOnce> {
    let containers = containers(host, "k", callers)?;
    let interfaces = interface_count()?;
    let spec = |n: usize, container: &NetNs| AttachSpec {
        netns: container.path(),
        container_ifname: "eth0".into(),
        host_ifname: format!("floor{n}"),
        mtu: None,
        mtu_follows: false,
        container_mac: None,
        allow_spoofing: false,
        container_forwarding: None,
        ipv6: false,
        queues: None,
    };
    let address = |n: usize| -> Result<IpAddr> {
        let [high, low] = u16::try_from(n + 1)?.to_be_bytes();
        Ok(Ipv4Addr::new(10, 90, high, low).into())
    };
    let add = verb(callers, &containers, cpu::of_self, |n, container| {
        let (spec, address) = (spec(n, container), address(n)?);
        attach::create(&spec, &[address])?;
        let mut routes = RouteTable::open(route_table::Config {
            // Of ours the agent would take for something left over.
            protocol: PROTO_FLOOR,
            ..route_table::Config::default()
        })?;
        routes.set(address.into(), Route::device(&spec.host_ifname));
        let report = routes.apply();
        report.failed.is_empty().then_some(()).context("no route")
    })?;
    let check = verb(callers, &containers, cpu::of_self, |n, container| {
        let found = attach::check(&spec(n, container), &[address(n)?])?;
        found
            .is_empty()
            .then_some(())
            .with_context(|| found.join("; "))
    })?;
    let del = verb(callers, &containers, cpu::of_self, |n, container| {
        Ok(attach::remove(&spec(n, container).host_ifname)?)
    })?;
    host.settle(interfaces)?;
    Ok(AtOnce {
        callers,
        who: "the kernel alone",
        add,
        check,
        del,
    })
}

/// Each container once, by so many callers who take the next one as soon as they are done.
fn verb(
    callers: usize,
    containers: &[NetNs],
    spent: impl Fn() -> Result<Duration>,
    work: impl Fn(usize, &NetNs) -> Result<()> + Sync,
) -> Result<Verb> {
    let next = AtomicUsize::new(0);
    let before = spent()?;
    let begun = Instant::now();
    let walls = thread::scope(|scope| {
        let caller = || -> Result<Vec<Duration>> {
            let mut walls = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(container) = containers.get(n) else {
                    return Ok(walls);
                };
                let begun = Instant::now();
                work(n, container)?;
                walls.push(begun.elapsed());
            }
        };
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_panic| Err(anyhow!("a caller panicked")))
        });
        joined.collect::<Result<Vec<_>>>()
    })?;
    Ok(Verb {
        walls: walls.concat(),
        elapsed: begun.elapsed(),
        cpu: spent()?.saturating_sub(before),
    })
}
