//! One host with an agent, a datastore, and a runtime that calls the plugin as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use margay_lab::{Agent, Ctl, Datastore, Etcd, Host, Lab, NetNs, STORE_V4, binary, eventually};
use serde_json::{Value, json};

/// A loaded machine takes its time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The network of most containers. Its first ADD makes its profile: members reach each other.
pub(crate) const NETWORK: &str = "red";

/// A pool of each family with small blocks.
pub(crate) const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\n\
    metadata:\n  name: v4\nspec:\n  cidr: 10.65.0.0/24\n  blockSize: 28\n  \
    nodeSelector: all()\n---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  \
    name: v6\nspec:\n  cidr: fd00:65::/112\n  blockSize: 124\n  nodeSelector: all()\n";

/// A pool that no host takes addresses from.
const MARK: &str = "/calico/resources/v3/projectcalico.org/ippools/mark";
const MARK_POOL: &str = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"mark"},
    "spec":{"cidr":"192.0.2.240/30","blockSize":30,"nodeSelector":"!all()"}}"#;

/// The host and what runs on it.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) etcd: Option<Etcd>,
    pub(crate) lab: Lab,
}

/// A container as its runtime knows it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) network: String,
    pub(crate) netns: NetNs,
    pub(crate) ips: Vec<IpAddr>,
}

impl Sandbox {
    pub(crate) fn v4(&self) -> IpAddr {
        *self.ips.iter().find(|ip| ip.is_ipv4()).expect("attached")
    }

    pub(crate) fn v6(&self) -> IpAddr {
        *self.ips.iter().find(|ip| ip.is_ipv6()).expect("attached")
    }
}

/// What the plugin said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) exit: i32,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Success, with the addresses of the result if there is one.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        assert_eq!(self.exit, 0, "{}", self.text);
        let result = self.json();
        let ips = result["ips"].as_array().cloned().unwrap_or_default();
        ips.iter()
            .map(|ip| {
                let text = ip["address"].as_str().unwrap();
                text.split_once('/').unwrap().0.parse().unwrap()
            })
            .collect()
    }

    /// A failure with this CNI error code whose words contain `needle`.
    #[track_caller]
    pub(crate) fn refused(&self, code: u64, needle: &str) {
        let error = self.json();
        assert_eq!(
            (self.exit, error["code"].as_u64()),
            (1, Some(code)),
            "{}",
            self.text
        );
        assert!(self.text.contains(needle), "{}", self.text);
    }
}

impl Rig {
    /// With etcd behind the router.
    pub(crate) fn with_etcd(resources: &str) -> Self {
        Self::with_etcd_and(resources, None)
    }

    /// The same with an agent that gives a request to etcd two seconds: where etcd does not answer, and somebody waits.
    pub(crate) fn impatient(resources: &str) -> Self {
        Self::with_etcd_and(resources, Some(2000))
    }

    fn with_etcd_and(resources: &str, limit_ms: Option<u32>) -> Self {
        let lab = Lab::new(1).unwrap();
        let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into()).unwrap();
        if !resources.is_empty() {
            // Before the agent, so that no call comes before the watch.
            let ctl = Ctl::with_etcd(&lab.store, etcd.url(), lab.dir());
            ctl.apply(resources).unwrap();
        }
        let datastore = Datastore::Etcd(etcd.url().to_owned());
        Self::start(lab, Some(etcd), &datastore, limit_ms)
    }

    /// With the store in a file.
    pub(crate) fn embedded(resources: &str) -> Self {
        let rig = Self::start(Lab::new(1).unwrap(), None, &Datastore::Embedded, None);
        if !resources.is_empty() {
            rig.ctl().apply(resources).unwrap();
            rig.heard();
        }
        rig
    }

    fn start(lab: Lab, etcd: Option<Etcd>, store: &Datastore, limit_ms: Option<u32>) -> Self {
        let mut agent = Agent::prepare(&lab.hosts[0], store).unwrap();
        if let Some(millis) = limit_ms {
            agent.set_request_limit(millis);
        }
        let config = fs::read_to_string(agent.config_file()).unwrap();
        fs::write(agent.config_file(), config + "audit_interval_secs: 1\n").unwrap();
        let mut rig = Self { agent, etcd, lab };
        rig.restart(&[]);
        rig
    }

    /// Waits until the agent has heard of all that was written so far: it knows a pool that was written after it.
    pub(crate) fn heard(&self) {
        self.put(MARK, MARK_POOL);
        let mut config = self.config(NETWORK);
        config["cniVersion"] = "1.1.0".into();
        config["ipam"] = json!({"type": "margay-ipam", "ipv4_pools": ["mark"]});
        eventually(SOON, "the agent has heard", || {
            let status = self.plugin("STATUS", "mark", None, &config);
            match status.exit {
                0 => Ok(()),
                _ => Err(status.text),
            }
        })
        .unwrap();
        self.delete(MARK);
    }

    pub(crate) fn host(&self) -> &Host {
        &self.lab.hosts[0]
    }

    pub(crate) fn ctl(&self) -> Ctl {
        self.agent.ctl()
    }

    /// kill -9, start with this environment, wait until ready.
    pub(crate) fn restart(&mut self, env: &[(&str, &str)]) {
        self.agent.set_env(env);
        self.agent.restart().unwrap();
        eventually(SOON, "the agent is ready", || self.agent.ensure_ready()).unwrap();
    }

    /// The agent dies at the fault point that it was started with.
    pub(crate) fn ensure_died(&mut self, point: &str) {
        let died = eventually(SOON, "the agent dies", || {
            let alive = self.agent.process()?.ensure_running();
            ensure!(alive.is_err(), "no fault point {point} in a release build");
            Ok::<_, anyhow::Error>(())
        });
        died.unwrap();
    }

    /// A namespace, not attached yet.
    pub(crate) fn sandbox(&self, id: &str, network: &str) -> Sandbox {
        Sandbox {
            id: id.to_owned(),
            network: network.to_owned(),
            netns: self.lab.container_netns(id).unwrap(),
            ips: Vec::new(),
        }
    }

    /// A container that is attached.
    pub(crate) fn attach(&self, id: &str, network: &str) -> Sandbox {
        let mut sandbox = self.sandbox(id, network);
        sandbox.ips = self.cni("ADD", &sandbox).ips();
        assert_eq!(sandbox.ips.len(), 2, "{:?}", sandbox.ips);
        sandbox
    }

    pub(crate) fn config(&self, network: &str) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": network,
            "type": "margay-cni",
            "socket": self.agent.socket(),
            "journal": self.agent.journal(),
            "ipam": {"type": "margay-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
        })
    }

    /// One call of the plugin, as a well-behaved runtime makes it.
    pub(crate) fn cni(&self, verb: &str, sandbox: &Sandbox) -> Answer {
        let netns = sandbox.netns.path();
        let netns = netns.to_str().unwrap();
        self.plugin(
            verb,
            &sandbox.id,
            Some(netns),
            &self.config(&sandbox.network),
        )
    }

    /// One call with whatever configuration.
    pub(crate) fn plugin(
        &self,
        verb: &str,
        id: &str,
        netns: Option<&str>,
        config: &Value,
    ) -> Answer {
        let mut env = vec![
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id),
            ("CNI_IFNAME", "eth0"),
        ];
        env.extend(netns.map(|netns| ("CNI_NETNS", netns)));
        self.shim(&env, config.to_string().as_bytes())
    }

    /// The plugin with whatever environment and input.
    pub(crate) fn shim(&self, env: &[(&str, &str)], stdin: &[u8]) -> Answer {
        let mut command = self.host().netns.command(binary("margay-cni").unwrap());
        let mut child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that does not want its input closes the pipe.
        child.stdin.take().unwrap().write_all(stdin).ok();
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        Answer {
            exit: output.status.code().unwrap_or(-1),
            text: String::from_utf8(output.stdout).unwrap(),
        }
    }

    /// One line to the agent's socket, and its answer.
    pub(crate) fn ask(&self, line: &[u8]) -> Result<Value> {
        let mut stream = UnixStream::connect(self.agent.socket())?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(line)?;
        stream.write_all(b"\n")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("the agent answers {answer:?}"))
    }

    /// All keys below a prefix with their values, as text.
    pub(crate) fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let request = json!({"store": {"list": {"prefix": prefix}}});
        let answer = self.ask(request.to_string().as_bytes())?;
        let kvs = answer["listing"]["kvs"].as_array();
        let kvs = kvs.with_context(|| format!("no listing: {answer}"))?;
        let text = |kv: &Value, field: &str| kv[field].as_str().unwrap_or_default().to_owned();
        kvs.iter()
            .map(|kv| {
                let value = BASE64.decode(text(kv, "value"))?;
                Ok((text(kv, "key"), String::from_utf8(value)?))
            })
            .collect()
    }

    /// Writes whatever under a key, behind everybody's back.
    pub(crate) fn put(&self, key: &str, value: &str) {
        let value = BASE64.encode(value);
        let ops = json!([{"put": {"key": key, "value": value}}]);
        self.commit(&ops);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.commit(&json!([{"delete": {"key": key}}]));
    }

    fn commit(&self, ops: &Value) {
        let request = json!({"store": {"txn": {"compares": [], "ops": ops}}});
        let answer = self.ask(request.to_string().as_bytes()).unwrap();
        assert!(answer.get("committed").is_some(), "{answer}");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.agent.log_file()).unwrap()
    }

    /// Names of our host interfaces.
    pub(crate) fn interfaces(&self) -> Result<BTreeSet<String>> {
        let links: Value = serde_json::from_str(&self.host().netns.exec("ip -j link show")?)?;
        let links = links.as_array().context("no list")?;
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        Ok(names
            .filter(|name| name.starts_with("mgy"))
            .map(str::to_owned)
            .collect())
    }

    /// DELs that wait.
    pub(crate) fn journalled(&self) -> usize {
        let Ok(dir) = fs::read_dir(self.agent.journal()) else {
            return 0;
        };
        dir.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("json".as_ref()))
            .count()
    }

    /// Addresses that are to be given back to other plugins.
    pub(crate) fn given(&self) -> usize {
        fs::read_dir(self.agent.journal().join("given")).map_or(0, Iterator::count)
    }

    /// The same for pods without a policy: there are no sets.
    #[track_caller]
    pub(crate) fn ensure_exact_endpoints(&self, attached: &[&Sandbox]) {
        let look = || crate::exact::ensure_store_and_routes(self, attached);
        if let Err(difference) = eventually(SOON, "an exact state", look) {
            panic!("{difference:#}\n{}", self.log());
        }
    }

    /// Everything that there is belongs to these containers, and they have all that they need.
    #[track_caller]
    pub(crate) fn ensure_exact(&self, attached: &[&Sandbox]) {
        let exact = eventually(SOON, "an exact state", || {
            crate::exact::ensure(self, attached)
        });
        if let Err(difference) = exact {
            panic!("{difference:#}\n{}", self.log());
        }
    }
}

/// An error unless both are the same.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, wanted: &T) -> Result<()> {
    if is != wanted {
        bail!("{what}: {is:?}, wanted {wanted:?}");
    }
    Ok(())
}
