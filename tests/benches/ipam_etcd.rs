//! Address management on a real etcd, against the floor: as many raw transactions of one key, through the
//! same driver, against the same server, in turns with it. Prints medians and their ratios.
#![expect(clippy::print_stdout, reason = "printing is what a benchmark does")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use margay_datastore::{DatastoreConfig, EtcdStore};
use margay_ipam::{
    Address, Allocator, AssignRequest, Extra, Pool, Pools, ReleaseRequest, Request, View,
};
use margay_lab::Etcd;
use margay_model::ipam::IpamConfig;
use margay_model::ippool::PoolUse;
use margay_model::store::{Store as _, Txn, TxnOutcome};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::JoinSet;

/// Most requests of one round, as in the agent.
const ROUND: usize = 64;
/// Measurements of each kind.
const SAMPLES: usize = 41;
/// Workloads that a host has beside those measured.
const NEIGHBOURS: usize = 40;
/// About the size of a container's endpoint.
const ENDPOINT_BYTES: usize = 900;

type Job = (Request, oneshot::Sender<Result<()>>);

fn main() -> Result<()> {
    // `cargo test --benches` passes `--test`: built is enough then.
    if std::env::args().any(|word| word == "--test") {
        return Ok(());
    }
    let etcd = Etcd::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    println!(
        "address management on one etcd ({}), medians in ms",
        etcd.dir().display()
    );
    println!(
        "{:<28} {:>10} {:>10} {:>7}",
        "", "addresses", "raw txns", "ratio"
    );
    for (hosts, each) in [(1, 1), (1, 8), (1, 100), (20, 1), (20, 5)] {
        let (addresses, raw) = runtime.block_on(measure(etcd.url(), hosts, each))?;
        println!(
            "{:<28} {:>10.2} {:>10.2} {:>7.2}",
            format!("{hosts} host(s), {each} at once"),
            millis(addresses),
            millis(raw),
            addresses.as_secs_f64() / raw.as_secs_f64()
        );
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The medians of the time until the last of `hosts` x `each` calls has its answer.
async fn measure(url: &str, hosts: usize, each: usize) -> Result<(Duration, Duration)> {
    let mut agents = Vec::new();
    let mut stores = Vec::new();
    for host in 0..hosts {
        let store = EtcdStore::new(&DatastoreConfig {
            endpoints: vec![url.to_owned()],
            ..DatastoreConfig::default()
        })?;
        let agent = agent(store.clone(), format!("b{hosts}-{each}-{host}"));
        for n in 0..NEIGHBOURS {
            call(&agent, assign(&format!("{hosts}.{each}.{host}.n{n}"))).await?;
        }
        agents.push(agent);
        stores.push(store);
    }
    let (mut addresses, mut raw) = (Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        let id = |host: usize, n: usize| format!("{hosts}.{each}.{host}.{n}-{sample}");
        addresses.push(
            burst(hosts, each, |host, n| {
                let (agent, id) = (agents[host].clone(), id(host, n));
                async move { call(&agent, assign(&id)).await }
            })
            .await?,
        );
        raw.push(
            burst(hosts, each, |host, n| {
                let (store, id) = (stores[host].clone(), id(host, n));
                async move {
                    let key = format!("/bench/{id}");
                    let txn = Txn::default()
                        .when(key.as_str(), 0)
                        .put(key, vec![b'x'; ENDPOINT_BYTES]);
                    let outcome = store.txn(txn).await?;
                    ensure!(matches!(outcome, TxnOutcome::Committed(_)), "{outcome:?}");
                    Ok(())
                }
            })
            .await?,
        );
        burst(hosts, each, |host, n| {
            let (agent, id) = (agents[host].clone(), id(host, n));
            async move { call(&agent, release(&id)).await }
        })
        .await?;
    }
    Ok((median(addresses)?, median(raw)?))
}

fn median(mut samples: Vec<Duration>) -> Result<Duration> {
    samples.sort_unstable();
    samples
        .get(samples.len() / 2)
        .copied()
        .context("no samples")
}

/// Starts all calls together; how long until the last one is done.
async fn burst<F>(hosts: usize, each: usize, make: impl Fn(usize, usize) -> F) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let start = Arc::new(Barrier::new(hosts * each + 1));
    let mut calls = JoinSet::new();
    for host in 0..hosts {
        for n in 0..each {
            let (call, start) = (make(host, n), Arc::clone(&start));
            calls.spawn(async move {
                start.wait().await;
                call.await
            });
        }
    }
    start.wait().await;
    let begin = Instant::now();
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(begin.elapsed())
}

/// The task that owns a host's allocator, as in the agent: what waits shares a round.
fn agent(store: EtcdStore, node: String) -> mpsc::Sender<Job> {
    let (jobs, mut receiver) = mpsc::channel::<Job>(1024);
    let mut allocator = Allocator::new(store, "/calico", &node, view()).fenced(&node);
    tokio::spawn(async move {
        let mut round = Vec::new();
        while receiver.recv_many(&mut round, ROUND).await > 0 {
            let (requests, answers): (Vec<_>, Vec<_>) = round.drain(..).unzip();
            let outcomes = allocator.run(requests).await;
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let outcome = outcome.map(drop).map_err(anyhow::Error::from);
                // Whoever asked waits for it.
                answer.send(outcome).unwrap_or_default();
            }
        }
    });
    jobs
}

async fn call(agent: &mpsc::Sender<Job>, request: Request) -> Result<()> {
    let (answer, wait) = oneshot::channel();
    agent.send((request, answer)).await?;
    wait.await?
}

fn endpoint_key(id: &str) -> String {
    format!("/calico/resources/v3/projectcalico.org/workloadendpoints/bench/{id}")
}

fn assign(id: &str) -> Request {
    let key = endpoint_key(id);
    let request = AssignRequest::new(format!("bench.{id}"), 1, 0, Timestamp::now());
    Request::Assign(request.with_extra(move |addresses: &[Address]| {
        let mut value = format!("{:?}", addresses[0].ip);
        value.extend(std::iter::repeat_n('x', ENDPOINT_BYTES));
        Extra::from(Txn::default().put(key.as_str(), value))
    }))
}

fn release(id: &str) -> Request {
    Request::Release(ReleaseRequest {
        handle_id: format!("bench.{id}"),
        now: Timestamp::now(),
        extra: Txn::default().delete(endpoint_key(id)).into(),
    })
}

fn view() -> View {
    let pool = Pool {
        name: "default".to_owned(),
        cidr: "10.64.0.0/12".parse().expect("a constant CIDR"),
        block_len: 26,
        disabled: false,
        automatic: true,
        uses: vec![PoolUse::Workload],
        selects_node: true,
        namespace_selector: None,
        created: String::new(),
    };
    View {
        pools: Pools::new([pool]),
        // A burst is measured, not a pool that is used up.
        config: IpamConfig {
            ip_cooldown_seconds: Some(0),
            ..IpamConfig::default()
        },
        ..View::default()
    }
}
