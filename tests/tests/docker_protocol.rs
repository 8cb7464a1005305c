//! The plugin interface as dockerd speaks it, without a dockerd: one agent, its socket, and plain HTTP.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{Agent, Datastore, Docker, Lab, NetNs, eventually};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: front\n\
    spec:\n  cidr: 10.65.0.0/24\n  blockSize: 28\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: back\n\
    spec:\n  cidr: 10.66.0.0/24\n  blockSize: 28\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: six\n\
    spec:\n  cidr: fd00:65::/112\n  blockSize: 124\n";

const RESERVATION: &str = "apiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata:\n  \
    name: kept\nspec:\n  reservedCIDRs: [10.65.0.200/32]\n";

struct Rig {
    agent: Agent,
    lab: Lab,
}

/// An endpoint as dockerd knows it.
struct Endpoint {
    network: String,
    id: String,
    ips: Vec<IpAddr>,
}

impl Rig {
    fn new() -> Self {
        Self::with("")
    }

    /// An agent with more in its configuration.
    fn with(config: &str) -> Self {
        let more = config;
        let lab = Lab::new(1).unwrap();
        let agent = Agent::prepare(&lab.hosts[0], &Datastore::Embedded).unwrap();
        Docker::configure(&agent, &lab.hosts[0]).unwrap();
        let config = fs::read_to_string(agent.config_file()).unwrap();
        fs::write(agent.config_file(), config + more).unwrap();
        let mut rig = Self { agent, lab };
        rig.restart();
        rig.agent.ctl().apply(RESERVATION).unwrap();
        rig.agent.ctl().apply(POOLS).unwrap();
        // In whichever order they were written, the reservation was before them.
        for pool in ["10.65.0.0/24", "10.66.0.0/24", "fd00:65::/112"] {
            let call = json!({"Pool": pool, "V6": pool.contains(':')});
            eventually(SOON, "the pool is known", || {
                rig.call("IpamDriver.RequestPool", &call)
            })
            .unwrap();
        }
        rig
    }

    fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// kill -9, and a new agent with this environment.
    fn restart_with(&mut self, env: &[(&str, &str)]) {
        self.agent.set_env(env);
        self.agent.restart().unwrap();
        eventually(SOON, "the agent is ready", || self.agent.ensure_ready()).unwrap();
        eventually(SOON, "the plugin answers", || {
            self.call("Plugin.Activate", &Value::Null)
        })
        .unwrap();
    }

    fn host(&self) -> &NetNs {
        &self.lab.hosts[0].netns
    }

    fn socket(&self) -> PathBuf {
        self.lab.hosts[0].dir.join("plugins/margay.sock")
    }

    /// Status and body of whatever is sent.
    fn raw(&self, request: &[u8]) -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(SOON))?;
        // A request that is refused at its head is not read to its end.
        stream.write_all(request).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    fn post(&self, method: &str, body: &[u8]) -> Result<(u16, String)> {
        let mut request = format!(
            "POST /{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        self.raw(&request)
    }

    /// The answer, or the error that docker's user would see.
    fn call(&self, method: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, text) = self.post(method, body.as_bytes())?;
        ensure!(status == 200, "{method}: {status} {text}");
        let answer: Value = serde_json::from_str(&text)?;
        let field = if method.starts_with("IpamDriver") {
            "Error"
        } else {
            "Err"
        };
        if let Some(error) = answer.get(field) {
            bail!("{}", error.as_str().context("an error that is no text")?);
        }
        Ok(answer)
    }

    #[track_caller]
    fn refused(&self, method: &str, body: &Value, needle: &str) {
        let error = self.call(method, body).unwrap_err().to_string();
        assert!(error.contains(needle), "{method}: {error}");
    }

    fn create_network(&self, id: &str, pools: &[&str], options: Value) -> Result<()> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for pool in pools {
            let list = if pool.contains(':') { &mut v6 } else { &mut v4 };
            list.push(json!({"AddressSpace": "margay", "Pool": pool, "Gateway": "169.254.1.1/32"}));
        }
        let call = json!({"NetworkID": id, "IPv4Data": v4, "IPv6Data": v6,
            "Options": {"com.docker.network.generic": options}});
        self.call("NetworkDriver.CreateNetwork", &call)?;
        Ok(())
    }

    fn address(&self, pool: &str, wanted: &str) -> Result<IpAddr> {
        let options = json!({"com.docker.network.endpoint.macaddress": "02:42:00:00:00:01"});
        let call = json!({"PoolID": pool, "Address": wanted, "Options": options});
        let answer = self.call("IpamDriver.RequestAddress", &call)?;
        let text = answer["Address"].as_str().context("no address")?;
        Ok(text.split('/').next().context("no length")?.parse()?)
    }

    /// RequestAddress, CreateEndpoint, Join.
    fn attach(
        &self,
        network: &str,
        id: &str,
        pools: &[&str],
        sandbox: &str,
    ) -> Result<(Endpoint, Value)> {
        let mut ips = Vec::new();
        for pool in pools {
            ips.push(self.address(pool, "")?);
        }
        let endpoint = Endpoint {
            network: network.into(),
            id: id.into(),
            ips,
        };
        self.create(&endpoint, json!({}))?;
        let join =
            json!({"NetworkID": network, "EndpointID": id, "SandboxKey": sandbox, "Options": null});
        let joined = self.call("NetworkDriver.Join", &join)?;
        Ok((endpoint, joined))
    }

    fn create(&self, endpoint: &Endpoint, options: Value) -> Result<Value> {
        let text = |v4: bool| {
            let ip = endpoint.ips.iter().find(|ip| ip.is_ipv4() == v4);
            ip.map(|ip| format!("{ip}/{}", if v4 { 32 } else { 128 }))
                .unwrap_or_default()
        };
        let call = json!({"NetworkID": endpoint.network, "EndpointID": endpoint.id, "Options": options,
            "Interface": {"Address": text(true), "AddressIPv6": text(false), "MacAddress": ""}});
        self.call("NetworkDriver.CreateEndpoint", &call)
    }

    /// Leave, DeleteEndpoint, ReleaseAddress.
    fn detach(&self, endpoint: &Endpoint, pools: &[&str]) {
        let call = json!({"NetworkID": endpoint.network, "EndpointID": endpoint.id});
        self.call("NetworkDriver.Leave", &call).unwrap();
        self.call("NetworkDriver.DeleteEndpoint", &call).unwrap();
        for (pool, ip) in pools.iter().zip(&endpoint.ips) {
            let call = json!({"PoolID": pool, "Address": ip});
            self.call("IpamDriver.ReleaseAddress", &call).unwrap();
        }
    }

    /// Moves an interface in, as dockerd does with what Join answers.
    fn move_in(&self, container: &NetNs, joined: &Value, name: &str, ips: &[IpAddr]) {
        let source = joined["InterfaceName"]["SrcName"].as_str().unwrap();
        let host = self.host();
        host.ip(&format!(
            "link set {source} netns {} name {name}",
            container.name()
        ))
        .unwrap();
        for ip in ips {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            container
                .ip(&format!("addr add {ip}/{length} dev {name} nodad"))
                .unwrap();
        }
        container.ip(&format!("link set {name} up")).unwrap();
        for route in joined["StaticRoutes"].as_array().unwrap() {
            let to = route["Destination"].as_str().unwrap();
            let family = if to.contains(':') { "-6" } else { "-4" };
            let way = match route["RouteType"].as_u64().unwrap() {
                0 => format!("via {}", route["NextHop"].as_str().unwrap()),
                _ => "scope link".to_owned(),
            };
            container
                .ip(&format!("{family} route add {to} {way} dev {name}"))
                .unwrap();
        }
    }

    fn endpoints(&self) -> Vec<Value> {
        let listed = self.agent.ctl().run("get wep -A -o json").unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed["items"].as_array().cloned().unwrap_or_default()
    }

    fn interfaces(&self) -> usize {
        let links = self.host().exec("ip -o link show").unwrap();
        links
            .lines()
            .filter(|line| line.contains(": mgy") || line.contains(": dkp"))
            .count()
    }
}

#[test]
fn an_attachment_is_made_used_and_taken_back_and_every_call_may_be_repeated() {
    let mut rig = Rig::new();
    let answer = rig.call("Plugin.Activate", &Value::Null).unwrap();
    assert_eq!(
        answer,
        json!({"Implements": ["NetworkDriver", "IpamDriver"]})
    );
    let answer = rig
        .call("NetworkDriver.GetCapabilities", &Value::Null)
        .unwrap();
    assert_eq!(answer["Scope"], "local");
    let pool = json!({"Pool": "10.65.0.0/24", "AddressSpace": "margay"});
    let answer = rig.call("IpamDriver.RequestPool", &pool).unwrap();
    assert_eq!(answer["Pool"], "10.65.0.0/24");
    assert_eq!(
        answer["Data"]["com.docker.network.gateway"],
        "169.254.1.1/32"
    );
    assert_eq!(rig.call("IpamDriver.RequestPool", &pool).unwrap(), answer);
    let front = answer["PoolID"].as_str().unwrap().to_owned();
    let answer = rig
        .call(
            "IpamDriver.RequestPool",
            &json!({"V6": true, "Options": null}),
        )
        .unwrap();
    assert_eq!(answer["Pool"], "::/0");
    let six = answer["PoolID"].as_str().unwrap().to_owned();
    let pools = [front.as_str(), six.as_str()];

    let labels = json!({"margay.network": "web", "margay.label.tier": "front"});
    for _ in 0..2 {
        rig.create_network("aa11", &["10.65.0.0/24", "::/0"], labels.clone())
            .unwrap();
    }
    let (one, joined) = rig.attach("aa11", "e1", &pools, "/run/netns/s1").unwrap();
    assert_eq!(joined["Gateway"], "169.254.1.1");
    // Each again: a dockerd that lost the answer.
    let again = rig.create(&one, json!({})).unwrap();
    assert!(again["Interface"]["Address"].is_null(), "{again}");
    let join = json!({"NetworkID": "aa11", "EndpointID": "e1", "SandboxKey": "/run/netns/s1"});
    assert_eq!(rig.call("NetworkDriver.Join", &join).unwrap(), joined);
    let c1 = rig.lab.container_netns("c1").unwrap();
    rig.move_in(&c1, &joined, "eth0", &one.ips);
    c1.ip("route add default via 169.254.1.1").unwrap();

    let (two, joined) = rig.attach("aa11", "e2", &pools, "/run/netns/s2").unwrap();
    let c2 = rig.lab.container_netns("c2").unwrap();
    rig.move_in(&c2, &joined, "eth0", &two.ips);
    for ip in &two.ips {
        margay_lab::ping(&c1, *ip, SOON).unwrap();
    }
    let stored = rig.endpoints();
    let labels = &stored[0]["metadata"]["labels"];
    assert_eq!(labels["tier"], "front");
    assert_eq!(stored[0]["spec"]["profiles"], json!(["docker.web"]));

    // What was attached is there for the next agent, and for its calls.
    rig.restart();
    margay_lab::ping(&c1, two.ips[0], SOON).unwrap();
    for endpoint in [&one, &two] {
        rig.detach(endpoint, &pools);
        rig.detach(endpoint, &pools);
    }
    assert!(rig.endpoints().is_empty());
    eventually(SOON, "the interfaces are gone", || {
        ensure!(rig.interfaces() == 0);
        Ok(())
    })
    .unwrap();
    for _ in 0..2 {
        rig.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": "aa11"}))
            .unwrap();
        rig.call("IpamDriver.ReleasePool", &json!({"PoolID": front}))
            .unwrap();
    }
    let profiles = rig.agent.ctl().run("get profiles -o name").unwrap();
    assert!(!profiles.contains("docker.web"), "{profiles}");
}

#[test]
fn a_container_on_two_networks_has_gateways_and_ranges_of_each() {
    let rig = Rig::new();
    let options = |name: &str| json!({"margay.network": name});
    rig.create_network("aa", &["10.65.0.0/24"], options("front"))
        .unwrap();
    rig.create_network("bb", &["10.66.0.0/24"], options("back"))
        .unwrap();
    let (front, back) = ("4:10.65.0.0/24", "4:10.66.0.0/24");
    let (c1a, joined_a) = rig.attach("aa", "c1a", &[front], "s1").unwrap();
    let (c1b, joined_b) = rig.attach("bb", "c1b", &[back], "s1").unwrap();
    assert_ne!(joined_a["Gateway"], joined_b["Gateway"]);
    let c1 = rig.lab.container_netns("c1").unwrap();
    rig.move_in(&c1, &joined_a, "eth0", &c1a.ips);
    rig.move_in(&c1, &joined_b, "eth1", &c1b.ips);
    let (only_a, joined) = rig.attach("aa", "c2", &[front], "s2").unwrap();
    let c2 = rig.lab.container_netns("c2").unwrap();
    rig.move_in(&c2, &joined, "eth0", &only_a.ips);
    c2.ip("route add default via 169.254.1.1").unwrap();
    let (only_b, joined) = rig.attach("bb", "c3", &[back], "s3").unwrap();
    let c3 = rig.lab.container_netns("c3").unwrap();
    rig.move_in(&c3, &joined, "eth0", &only_b.ips);
    margay_lab::ping(&c1, only_a.ips[0], SOON).unwrap();
    margay_lab::ping(&c1, only_b.ips[0], SOON).unwrap();
    margay_lab::ping(&c3, c1b.ips[0], SOON).unwrap();
    // The one network's containers do not reach the other's.
    let second = Duration::from_secs(1);
    margay_lab::ping(&c2, only_b.ips[0], second).unwrap_err();
    margay_lab::ping(&c2, c1b.ips[0], second).unwrap_err();
    // The host is none of them either.
    let tcp = |to: IpAddr| {
        rig.host().within(|| {
            Ok(TcpStream::connect_timeout(
                &SocketAddr::new(to, 80),
                second,
            )?)
        })
    };
    // Refused by the container: the host may connect to what it hosts, as the established system lets it.
    assert!(tcp(only_a.ips[0]).is_err());
}

#[test]
fn what_is_wrong_is_told_by_name() {
    let rig = Rig::new();
    let address = "IpamDriver.RequestAddress";
    rig.refused("IpamDriver.RequestPool", &json!({"Pool": "10.9.0.0/16"}),
        "no IPPool has the range 10.9.0.0/16; there are: 10.66.0.0/24 (back), 10.65.0.0/24 (front), fd00:65::/112 (six)");
    rig.refused(
        "IpamDriver.RequestPool",
        &json!({"Options": {"ipv4_pools": "nope"}}),
        "--ipam-opt ipv4_pools is \"nope\", must be enabled IPv4 IPPools: back, front",
    );
    rig.refused(
        "IpamDriver.RequestPool",
        &json!({"Pool": "10.65.0.0/24", "SubPool": "10.65.0.0/28"}),
        "--ip-range",
    );
    let gateway = json!({"RequestAddressType": "com.docker.network.gateway"});
    rig.refused(
        address,
        &json!({"PoolID": "4:", "Address": "10.65.0.1", "Options": gateway}),
        "the gateway of every container is 169.254.1.1",
    );
    rig.refused(
        address,
        &json!({"PoolID": "4:", "Address": "10.65.0.9"}),
        "an address of an IPReservation",
    );
    let kept = rig.call(
        address,
        &json!({"PoolID": "4:", "Address": "10.65.0.200", "Options": null}),
    );
    assert_eq!(kept.unwrap()["Address"], "10.65.0.200/32");
    let error = rig.address("4:", "10.65.0.200").unwrap_err();
    assert_eq!(error.to_string(), "10.65.0.200 is reserved");
    rig.refused(
        "NetworkDriver.CreateNetwork",
        &json!({"NetworkID": "aa", "IPv4Data":
        [{"AddressSpace": "LocalDefault", "Pool": "172.18.0.0/16", "Gateway": "172.18.0.1/16"}]}),
        "--ipam-driver margay",
    );
    let error = rig
        .create_network("aa", &["0.0.0.0/0"], json!({"margay.ingres": "all"}))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("unknown option margay.ingres, there are margay.network")
    );
    let endpoint = Endpoint {
        network: "aa".into(),
        id: "e1".into(),
        ips: vec!["10.65.0.5".parse().unwrap()],
    };
    let error = rig.create(&endpoint, json!({})).unwrap_err().to_string();
    assert!(error.contains("this host has no network aa"), "{error}");
    rig.create_network("aa", &["10.65.0.0/24"], json!({}))
        .unwrap();
    rig.refused(
        "NetworkDriver.Join",
        &json!({"NetworkID": "aa", "EndpointID": "e1", "SandboxKey": "s"}),
        "this host has no endpoint e1",
    );

    // One address for two.
    let ip = rig.address("4:10.65.0.0/24", "10.65.0.5").unwrap();
    assert_eq!(rig.address("4:10.65.0.0/24", "10.65.0.5").unwrap(), ip);
    rig.create(&endpoint, json!({})).unwrap();
    let error = rig
        .address("4:10.65.0.0/24", "10.65.0.5")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "10.65.0.5 belongs to endpoint h1-libnetwork-libnetwork-e1 of this host"
    );
    let other = Endpoint {
        id: "e2".into(),
        ..endpoint
    };
    let error = rig
        .create(&other, json!({"margay.label.role": "db"}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("10.65.0.5 belongs to endpoint"), "{error}");
}

#[test]
fn garbage_is_refused_and_leaves_the_agent_at_work() {
    let rig = Rig::new();
    let methods = [
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.RevokeExternalConnectivity",
        "NetworkDriver.Leave",
        "NetworkDriver.DiscoverNew",
        "IpamDriver.RequestPool",
        "IpamDriver.RequestAddress",
        "IpamDriver.ReleaseAddress",
    ];
    let bodies: [&[u8]; 12] = [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe\x00", b"7", b"\"x\"",
        br#"{"NetworkID":7,"EndpointID":[],"PoolID":{}}"#,
        br#"{"NetworkID":"../../x","EndpointID":"-","PoolID":"9:","SandboxKey":null,"Options":null}"#,
        br#"{"NetworkID":"a","EndpointID":"a/b","PoolID":"4:","Address":"::ffff","Options":{"a":"b"}}"#,
        br#"{"Interface":{"Address":"10.0.0.0/99999","MacAddress":"zz"},"IPv4Data":[{}],"Options":{}}"#];
    for method in methods {
        for body in bodies {
            let (status, text) = rig.post(method, body).unwrap();
            assert!(
                matches!(status, 200 | 400),
                "{method} {body:?}: {status} {text}"
            );
            let answer: Value = serde_json::from_str(&text).unwrap();
            if status == 400 {
                assert!(answer["Err"].as_str().unwrap().contains("decode"), "{text}");
            }
        }
    }
    assert_eq!(rig.post("NetworkDriver.NoSuchThing", b"{}").unwrap().0, 404);
    assert_eq!(rig.post("", b"").unwrap().0, 404);
    assert_eq!(
        rig.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().0,
        405
    );
    let huge =
        b"POST /IpamDriver.RequestPool HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(rig.raw(huge).unwrap().0, 413);
    for garbage in [b"\x00\x01\x02\r\n\r\n".as_slice(), b"POST\r\n\r\n", b"\r\n"] {
        drop(rig.raw(garbage));
    }
    drop(UnixStream::connect(rig.socket()).unwrap());
    rig.call("Plugin.Activate", &Value::Null).unwrap();
    rig.agent.ensure_ready().unwrap();
    assert!(rig.endpoints().is_empty());
}

/// The same call again, with its content, does what is left to do, wherever the agent was killed on its way.
#[test]
fn a_call_that_was_cut_off_is_finished_by_its_repetition() {
    let mut rig = Rig::new();
    let pool = "4:10.65.0.0/24";
    let options = json!({"com.docker.network.endpoint.macaddress": "02:42:00:00:00:01"});
    let network = json!({"NetworkID": "aa",
        "IPv4Data": [{"AddressSpace": "margay", "Pool": "10.65.0.0/24", "Gateway": "169.254.1.1/32"}]});
    let address = json!({"PoolID": pool, "Address": "10.65.0.9", "Options": options});
    let target = json!({"NetworkID": "aa", "EndpointID": "e1", "SandboxKey": "s1",
        "Interface": {"Address": "10.65.0.9/32", "MacAddress": "02:42:00:00:00:01"}});
    let published = json!({"NetworkID": "aa", "EndpointID": "e1", "Options":
        {"com.docker.network.portmap": [{"Proto": 17, "Port": 53, "HostPort": 5353, "HostPortEnd": 5353}]}});
    let removal: &[&str] = &[
        "docker-after-kernel-removal",
        "docker-after-endpoint-removal",
        "before-interface-removal",
        "after-interface-removal",
    ];
    let steps: [(&str, &Value, &[&str]); 9] = [
        (
            "NetworkDriver.CreateNetwork",
            &network,
            &["docker-after-network"],
        ),
        (
            "IpamDriver.RequestAddress",
            &address,
            &["docker-after-address"],
        ),
        (
            "NetworkDriver.CreateEndpoint",
            &target,
            &[
                "after-policy",
                "after-route",
                "after-announcement",
                "docker-after-endpoint",
                "docker-before-endpoint-answer",
            ],
        ),
        (
            "NetworkDriver.Join",
            &target,
            &["docker-after-gateways", "docker-before-join-answer"],
        ),
        (
            "NetworkDriver.ProgramExternalConnectivity",
            &published,
            &["docker-after-open-port", "docker-after-ports"],
        ),
        (
            "NetworkDriver.RevokeExternalConnectivity",
            &target,
            &["docker-after-ports-removal"],
        ),
        ("NetworkDriver.DeleteEndpoint", &target, removal),
        (
            "IpamDriver.ReleaseAddress",
            &address,
            &["docker-after-release"],
        ),
        (
            "NetworkDriver.DeleteNetwork",
            &target,
            &["docker-after-network-removal"],
        ),
    ];
    for (method, body, points) in steps {
        // What the point needs is there again for each.
        let undo = match method {
            "NetworkDriver.DeleteEndpoint" => Some("NetworkDriver.CreateEndpoint"),
            "NetworkDriver.CreateEndpoint" => Some("NetworkDriver.DeleteEndpoint"),
            _ => None,
        };
        for (n, point) in points.iter().enumerate() {
            if n > 0
                && let Some(undo) = undo
            {
                rig.call(undo, body).unwrap();
            }
            rig.restart_with(&[("MARGAY_FAULT", point)]);
            // What it does afterwards may cut off the answer or not.
            drop(rig.call(method, body));
            let died = eventually(SOON, "the agent dies", || {
                ensure!(
                    rig.agent.process()?.ensure_running().is_err(),
                    "{point} is not reached"
                );
                Ok(())
            });
            died.unwrap();
            rig.restart();
            rig.call(method, body).unwrap();
        }
        // dockerd's own repetition has no content, and changes nothing.
        let (status, text) = rig.post(method, b"").unwrap();
        assert!(
            status == 200 && text.contains("try again"),
            "{status} {text}"
        );
    }
    assert!(rig.endpoints().is_empty());
    eventually(SOON, "the interfaces are gone", || {
        ensure!(rig.interfaces() == 0);
        Ok(())
    })
    .unwrap();
    rig.create_network("aa", &["10.65.0.0/24"], json!({}))
        .unwrap();
    assert_eq!(
        rig.address(pool, "10.65.0.9").unwrap().to_string(),
        "10.65.0.9"
    );
}

/// A dockerd that is killed between two calls never makes the second.
#[test]
fn what_dockerd_forgets_is_collected() {
    let rig = Rig::with("audit_interval_secs: 1\nleak_grace_secs: 3\n");
    rig.create_network("aa", &["10.65.0.0/24"], json!({}))
        .unwrap();
    // An address nobody uses, and a container whose interface went away with it.
    rig.address("4:10.65.0.0/24", "10.65.0.77").unwrap();
    let (endpoint, joined) = rig.attach("aa", "e1", &["4:10.65.0.0/24"], "s1").unwrap();
    let source = joined["InterfaceName"]["SrcName"].as_str().unwrap();
    rig.host().ip(&format!("link del {source}")).unwrap();
    // One whose interface no container was ever given.
    let (idle, _) = rig.attach("aa", "e2", &["4:10.65.0.0/24"], "s2").unwrap();
    eventually(SOON, "the endpoint is cleared away", || {
        ensure!(rig.endpoints().is_empty());
        Ok(())
    })
    .unwrap();
    let ips = [&endpoint, &idle].map(|e| e.ips[0].to_string());
    for ip in ips.into_iter().chain(["10.65.0.77".to_owned()]) {
        eventually(SOON, "its address is free", || {
            let shown = rig.agent.ctl().run(&format!("ipam show --ip {ip}"))?;
            ensure!(!shown.contains("is in use"), "{shown}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_published_port_is_chosen_kept_and_told() {
    let rig = Rig::new();
    rig.create_network("aa", &["10.65.0.0/24"], json!({}))
        .unwrap();
    rig.attach("aa", "e1", &["4:10.65.0.0/24"], "s1").unwrap();
    let target = json!({"NetworkID": "aa", "EndpointID": "e1"});
    let publish = |id: &str, port: u16, end: u16| {
        let mut call = json!({"NetworkID": "aa", "EndpointID": id});
        call["Options"] = json!({"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "IP": "",
            "HostIP": "", "HostPort": port, "HostPortEnd": end}]});
        rig.call("NetworkDriver.ProgramExternalConnectivity", &call)
    };
    publish("e1", 8080, 8080).unwrap();
    let ports = |info: Value| info["Value"]["com.docker.network.portmap"][0]["HostPort"].clone();
    let told = rig.call("NetworkDriver.EndpointOperInfo", &target).unwrap();
    assert_eq!(ports(told), 8080);
    rig.attach("aa", "e2", &["4:10.65.0.0/24"], "s2").unwrap();
    let error = publish("e2", 8080, 8080).unwrap_err().to_string();
    assert!(
        error.starts_with("port 8080/tcp of the host is taken by h1-libnetwork-libnetwork-e1"),
        "{error}"
    );
    publish("e2", 8080, 8081).unwrap();
    rig.call("NetworkDriver.RevokeExternalConnectivity", &target)
        .unwrap();
    let told = rig.call("NetworkDriver.EndpointOperInfo", &target).unwrap();
    assert_eq!(told, json!({"Value": {}}));
}

/// Word for word what Docker 28 and 29 send, which no distribution of here has.
#[test]
fn requests_of_younger_dockers_are_served() {
    let rig = Rig::new();
    let told = rig.call("NetworkDriver.GetCapabilities", &Value::Null);
    assert_eq!(told.unwrap()["GwAllocChecker"], true);
    let options = json!({"com.docker.network.enable_ipv4": true, "com.docker.network.enable_ipv6": true,
        "com.docker.network.generic": {"margay.network": "dual", "com.docker.network.driver.mtu": "1400"}});
    // It takes no gateway from the pools then, and tells CreateNetwork none.
    let skipped = rig.call("NetworkDriver.GwAllocCheck", &json!({"Options": options}));
    assert_eq!(
        skipped.unwrap(),
        json!({"SkipIPv4": true, "SkipIPv6": true})
    );
    let data = |pool: &str| json!([{"AddressSpace": "margay", "Pool": pool}]);
    let create = |id: &str, options: Value, v4: Value, v6: Value| {
        let call = json!({"NetworkID": id, "Options": options, "IPv4Data": v4, "IPv6Data": v6});
        rig.call("NetworkDriver.CreateNetwork", &call).unwrap();
    };
    create("d1", options, data("10.65.0.0/24"), data("fd00:65::/112"));
    let only = |v4: bool, name: &str| {
        json!({"com.docker.network.enable_ipv4": v4, "com.docker.network.enable_ipv6": !v4,
            "com.docker.network.generic": {"margay.network": name}})
    };
    create("d4", only(true, "four"), data("10.66.0.0/24"), Value::Null);
    create("d6", only(false, "six"), json!([]), data("fd00:65::/112"));

    let attach = |network: &str, id: &str, pools: &[&str], sandbox: &str| {
        let ips: Vec<IpAddr> = pools
            .iter()
            .map(|pool| rig.address(pool, "").unwrap())
            .collect();
        let mut interface =
            json!({"Address": "", "AddressIPv6": "", "MacAddress": "02:42:00:00:00:01"});
        for ip in &ips {
            match ip {
                IpAddr::V4(_) => interface["Address"] = format!("{ip}/32").into(),
                IpAddr::V6(_) => interface["AddressIPv6"] = format!("{ip}/128").into(),
            }
        }
        // A hardware address is base64 there, and what is for dockerd itself comes along.
        let options = json!({"com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
            "com.docker.network.endpoint.macaddress": "AkIAAAAB",
            "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
            "com.docker.network.endpoint.ifname": "web0",
            "com.docker.network.portmap": [], "com.docker.network.endpoint.dnsservers": ["192.0.2.53"]});
        let call = json!({"NetworkID": network, "EndpointID": id, "Interface": interface, "Options": options});
        let made = rig.call("NetworkDriver.CreateEndpoint", &call).unwrap();
        // An address of any kind that it knows already would be an error to it.
        assert_eq!(made, json!({"Interface": {}}));
        let join = json!({"NetworkID": network, "EndpointID": id, "SandboxKey": sandbox, "Options": options});
        rig.call("NetworkDriver.Join", &join).unwrap()
    };
    let (front, back, six) = ("4:10.65.0.0/24", "4:10.66.0.0/24", "6:fd00:65::/112");
    let joined = attach("d1", "e1", &[front, six], "/var/run/docker/netns/s1");
    assert_eq!(joined["Gateway"], "169.254.1.1");
    assert_eq!(joined["InterfaceName"]["DstName"], "web0");
    let joined = attach("d6", "e6", &[six], "/var/run/docker/netns/s2");
    assert!(joined.get("Gateway").is_none(), "{joined}");
    assert!(joined["GatewayIPv6"].is_string(), "{joined}");
    let joined = attach("d4", "e4", &[back], "/var/run/docker/netns/s2");
    assert!(joined.get("GatewayIPv6").is_none(), "{joined}");

    // Each endpoint that has a default route of a family is told of all published ports.
    let publish = |network: &str, id: &str, v4_only: bool| {
        let mut options = json!({"com.docker.network.portmap": [{"Proto": 6, "IP": "", "Port": 80,
            "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}]});
        if v4_only {
            options["com.docker.network.driver.private.no_proxy_6to4"] = true.into();
        }
        let call = json!({"NetworkID": network, "EndpointID": id, "Options": options});
        rig.call("NetworkDriver.ProgramExternalConnectivity", &call)
    };
    let host_ip = |id: &str| {
        let target = json!({"NetworkID": "d1", "EndpointID": id});
        let told = rig.call("NetworkDriver.EndpointOperInfo", &target).unwrap();
        told["Value"]["com.docker.network.portmap"][0]["HostIP"].clone()
    };
    let revoke = |network: &str, id: &str| {
        let target = json!({"NetworkID": network, "EndpointID": id});
        rig.call("NetworkDriver.RevokeExternalConnectivity", &target)
            .unwrap();
    };
    publish("d4", "e4", false).unwrap();
    publish("d6", "e6", false).unwrap();
    assert_eq!((host_ip("e4"), host_ip("e6")), (json!(""), json!("")));
    let rules = || {
        let all = [
            "nft list ruleset",
            "iptables-save -t nat",
            "ip6tables-save -t nat",
        ];
        all.map(|list| rig.host().exec(list).unwrap()).concat()
    };
    eventually(SOON, "both lead to the container", || {
        let rules = rules();
        let leads = rules.matches("8080").count();
        ensure!(leads >= 2, "{rules}");
        Ok(())
    })
    .unwrap();
    // Another container's is refused for either family.
    let error = publish("d1", "e1", true).unwrap_err().to_string();
    assert!(
        error.contains("port 8080/tcp of the host is taken by"),
        "{error}"
    );
    revoke("d4", "e4");
    revoke("d6", "e6");
    // One that had both, and gives up IPv6 to another network while the container runs; and gets it back.
    publish("d1", "e1", false).unwrap();
    assert_eq!(host_ip("e1"), "");
    publish("d1", "e1", true).unwrap();
    assert_eq!(host_ip("e1"), "0.0.0.0");
    publish("d1", "e1", false).unwrap();
    assert_eq!(host_ip("e1"), "");
    revoke("d1", "e1");
    assert_eq!(host_ip("e1"), Value::Null);
    // Of swarm, which does not ask drivers of this scope.
    let (status, _) = rig.post("NetworkDriver.AllocateNetwork", b"{}").unwrap();
    assert_eq!(status, 404);
}
