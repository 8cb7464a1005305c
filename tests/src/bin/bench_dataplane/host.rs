//! A host with etcd and an agent of its own, full of endpoints that have interfaces and no containers.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_datastore::{DatastoreConfig, EtcdStore};
use margay_lab::resources::pools_and_profile;
use margay_lab::{Agent, Ctl, Datastore, Etcd, Host, Lab, binary};
use margay_model::store::{Store as _, Txn, TxnOutcome};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Runtime;

pub(crate) const ENDPOINTS: usize = 250;
/// Each is for ten of the endpoints.
pub(crate) const POLICIES: usize = 50;
/// Endpoints elsewhere that policies allow to come in.
pub(crate) const MEMBERS: usize = 10_000;

/// Policies of which all are in force, in place of [`POLICIES`].
pub(crate) const MANY_POLICIES: usize = 10_000;

/// What all keys begin with.
pub(crate) const ROOT: &str = "/calico/";
const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";
/// Writes in one transaction of etcd.
const AT_ONCE: usize = 100;
const START: Duration = Duration::from_secs(60);
/// Between two questions whether the agent is ready.
const LOOK: Duration = Duration::from_millis(1);

/// The host. The thread that makes it is in its network namespace until this is dropped.
pub(crate) struct BenchHost {
    /// Killed before the namespaces go.
    process: Option<Child>,
    pub(crate) agent: Agent,
    store: EtcdStore,
    pub(crate) runtime: Runtime,
    outside: File,
    etcd: Etcd,
    pub(crate) lab: Lab,
}

impl BenchHost {
    pub(crate) fn start() -> Result<Self> {
        let lab = Lab::new(1)?;
        let host = &lab.hosts[0];
        let etcd = Etcd::start_in(host.netns.name(), Ipv4Addr::LOCALHOST.into())?;
        let ctl = Ctl::with_etcd(&host.netns, etcd.url(), lab.dir());
        ctl.apply(&pools_and_profile(false))?;
        let agent = Agent::prepare(host, &Datastore::Etcd(etcd.url().to_owned()))?;
        let config = store_config(&etcd);
        let outside = File::open("/proc/thread-self/ns/net")?;
        let inside = File::open(host.netns.path())?;
        setns(inside, CloneFlags::CLONE_NEWNET).context("cannot enter the host's namespace")?;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let bench = Self {
            process: None,
            agent,
            store: EtcdStore::new(&config)?,
            runtime: runtime.enable_all().build()?,
            outside,
            etcd,
            lab,
        };
        bench.interfaces()?;
        bench.fill()?;
        Ok(bench)
    }

    pub(crate) fn host(&self) -> &Host {
        &self.lab.hosts[0]
    }

    pub(crate) fn agent_pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("no agent runs")?.id())
    }

    fn interfaces(&self) -> Result<()> {
        let lines =
            (0..ENDPOINTS).map(|n| format!("link add mgy{n} up type veth peer name peer{n}\n"));
        let file = self.lab.dir().join("links");
        std::fs::write(&file, lines.collect::<String>())?;
        self.host()
            .netns
            .exec(&format!("ip -batch {}", file.display()))?;
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        let endpoints = (0..ENDPOINTS).map(|n| {
            let address = Ipv4Addr::from(0x0a41_0000 + n as u32);
            endpoint(
                "h1",
                n,
                &format!("mgy{n}"),
                address,
                &format!("\"group\":\"g{}\"", n % 25),
            )
        });
        self.put_all(endpoints)?;
        self.put_all((0..POLICIES).map(|n| policy(n, 80)))
    }

    /// Endpoints on another host.
    pub(crate) fn fill_sets(&self) -> Result<()> {
        self.put_all((0..MEMBERS).map(member))
    }

    /// As many policies as a large cluster has, each for ten endpoints here.
    pub(crate) fn fill_policies(&self) -> Result<()> {
        self.put_all((POLICIES..MANY_POLICIES).map(|n| policy(n, 80)))
    }

    /// A client with a connection of its own.
    pub(crate) fn store(&self) -> Result<EtcdStore> {
        Ok(EtcdStore::new(&store_config(&self.etcd))?)
    }

    fn put_all(&self, all: impl Iterator<Item = (String, String)>) -> Result<()> {
        let all: Vec<_> = all.collect();
        for some in all.chunks(AT_ONCE) {
            let txn = some.iter().fold(Txn::default(), |txn, (key, value)| {
                txn.put(key, value.as_str())
            });
            self.commit(txn)?;
        }
        Ok(())
    }

    fn commit(&self, txn: Txn) -> Result<()> {
        self.runtime.block_on(self.write(txn))
    }

    pub(crate) async fn write(&self, txn: Txn) -> Result<()> {
        let done = self.store.txn(txn).await?;
        ensure!(
            matches!(done, TxnOutcome::Committed(_)),
            "a conflict without a condition"
        );
        Ok(())
    }

    /// Starts the agent anew. How long it took from there until everything is programmed.
    pub(crate) fn start_agent(&mut self, clean: bool) -> Result<Duration> {
        self.stop_agent()?;
        let netns = &self.lab.hosts[0].netns;
        if clean {
            netns.exec("nft flush ruleset")?;
            netns.exec("ip route flush proto 77")?;
        }
        let log = File::create(self.agent.log_file())?;
        let mut command = netns.command(binary("margayd")?);
        command.arg("--config").arg(self.agent.config_file());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let begun = Instant::now();
        self.process = Some(command.spawn()?);
        let status = loop {
            let status = self.agent.status();
            if let Ok(status) = &status
                && status["ready"] == true
            {
                break status.clone();
            }
            ensure!(begun.elapsed() < START, "not ready: {status:?}");
            sleep(LOOK);
        };
        let took = begun.elapsed();
        let programmed = status["dataplane"]["endpoints"].as_u64();
        ensure!(programmed == Some(ENDPOINTS as u64), "{status}");
        Ok(took)
    }

    pub(crate) fn stop_agent(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }
}

impl Drop for BenchHost {
    fn drop(&mut self) {
        if let Err(error) = self.stop_agent() {
            println!("bench-dataplane: the agent was not stopped: {error}");
        }
        // What is left in the namespace when it goes is killed.
        setns(&self.outside, CloneFlags::CLONE_NEWNET).expect("back to where we came from");
    }
}

fn store_config(etcd: &Etcd) -> DatastoreConfig {
    DatastoreConfig {
        endpoints: vec![etcd.url().to_owned()],
        ..DatastoreConfig::default()
    }
}

fn endpoint(
    node: &str,
    n: usize,
    interface: &str,
    address: Ipv4Addr,
    labels: &str,
) -> (String, String) {
    let name = format!("{node}-cni-c{n}-eth0");
    let value = format!(
        "{{\"kind\":\"WorkloadEndpoint\",\"apiVersion\":\"projectcalico.org/v3\",\"metadata\":{{\"name\":\"{name}\",\
         \"namespace\":\"bench\",\"labels\":{{{labels},\"projectcalico.org/namespace\":\"bench\",\
         \"projectcalico.org/orchestrator\":\"cni\"}}}},\"spec\":{{\"orchestrator\":\"cni\",\"node\":\"{node}\",\
         \"containerID\":\"c{n}\",\"endpoint\":\"eth0\",\"ipNetworks\":[\"{address}/32\"],\
         \"profiles\":[\"demo\"],\"interfaceName\":\"{interface}\"}}}}"
    );
    (format!("{RESOURCES}/workloadendpoints/bench/{name}"), value)
}

/// One that the policies' selectors pick, on another host.
pub(crate) fn member(n: usize) -> (String, String) {
    let address = Ipv4Addr::from(0x1400_0000 + 2 * n as u32);
    endpoint("other", n, "mgy0", address, "\"role\":\"client\"")
}

/// Lets members in to a port, for the endpoints of a group.
pub(crate) fn policy(n: usize, port: u16) -> (String, String) {
    let from = if n.is_multiple_of(2) {
        "role == 'client'"
    } else {
        "has(role)"
    };
    let group = n % 25;
    let value = format!(
        "{{\"kind\":\"NetworkPolicy\",\"apiVersion\":\"projectcalico.org/v3\",\"metadata\":{{\"name\":\"default.p{n}\",\
         \"namespace\":\"bench\"}},\"spec\":{{\"tier\":\"default\",\"order\":{n},\"selector\":\"group == 'g{group}'\",\
         \"types\":[\"Ingress\"],\"ingress\":[{{\"action\":\"Allow\",\"protocol\":\"TCP\",\
         \"source\":{{\"selector\":\"{from}\"}},\"destination\":{{\"ports\":[{port}]}}}}]}}}}"
    );
    (
        format!("{RESOURCES}/networkpolicies/bench/default.p{n}"),
        value,
    )
}
