//! Real etcd servers on free ports, with their data in a directory of their own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::eventually::{eventually, patience};
use crate::netns::within_netns;
use crate::port::free_port;
use crate::process::{Process, run};

/// A first start writes and syncs its files; a loaded machine takes its time.
const START: Duration = Duration::from_secs(60);

/// Files that need no disk: what others write there would hold up every transaction.
const IN_MEMORY: &str = "/dev/shm";

/// A certificate authority with a server and a client certificate, made by `openssl`.
#[derive(Debug)]
pub struct EtcdTls {
    dir: TempDir,
}

impl EtcdTls {
    /// Makes all keys and certificates, valid for 127.0.0.1; the client's name is `user`.
    pub fn new(user: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=lab authority", "-keyout"])
            .arg(at("ca.key"))
            .arg("-out")
            .arg(at("ca.pem")))?;
        for (name, subject) in [("server", "etcd"), ("client", user)] {
            std::fs::write(at("extensions"), "subjectAltName=IP:127.0.0.1\n")?;
            let request = at(&format!("{name}.csr"));
            run(Command::new("openssl")
                .args([
                    "req",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ])
                .args(["-nodes", "-subj", &format!("/CN={subject}"), "-keyout"])
                .arg(at(&format!("{name}.key")))
                .arg("-out")
                .arg(&request))?;
            run(Command::new("openssl")
                .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"])
                .arg(&request)
                .arg("-CA")
                .arg(at("ca.pem"))
                .arg("-CAkey")
                .arg(at("ca.key"))
                .arg("-extfile")
                .arg(at("extensions"))
                .arg("-out")
                .arg(at(&format!("{name}.pem"))))?;
        }
        Ok(Self { dir })
    }

    /// One of `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// One server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    netns: Option<String>,
    url: String,
    args: Vec<String>,
    process: Option<Process>,
}

impl Etcd {
    /// A single server without TLS on the loopback address.
    pub fn start() -> Result<Self> {
        Self::single(None, IpAddr::V4(Ipv4Addr::LOCALHOST), free_port()?)
    }

    /// A single server without TLS in a namespace, on an address that exists there.
    pub fn start_in(netns: &str, address: IpAddr) -> Result<Self> {
        Self::single(Some(netns), address, 2379)
    }

    /// A single server that demands client certificates of `tls`.
    pub fn start_tls(tls: &EtcdTls) -> Result<Self> {
        let url = format!("https://127.0.0.1:{}", free_port()?);
        let mut args = client_args(&url);
        for (flag, file) in [
            ("--cert-file", "server.pem"),
            ("--key-file", "server.key"),
            ("--trusted-ca-file", "ca.pem"),
        ] {
            args.push(flag.into());
            args.push(tls.file(file).display().to_string());
        }
        args.push("--client-cert-auth".into());
        args.extend(peer_args("http://127.0.0.1:0"));
        let mut etcd = Self::prepare(None, url, args)?;
        etcd.launch()?;
        let ca = tls.file("ca.pem");
        let (cert, key) = (tls.file("client.pem"), tls.file("client.key"));
        etcd.wait_ready(&[
            &format!("--cacert={}", ca.display()),
            &format!("--cert={}", cert.display()),
            &format!("--key={}", key.display()),
        ])?;
        Ok(etcd)
    }

    fn single(netns: Option<&str>, address: IpAddr, port: u16) -> Result<Self> {
        let host = match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let url = format!("http://{host}:{port}");
        let mut args = client_args(&url);
        args.extend(peer_args("http://127.0.0.1:0"));
        let mut etcd = Self::prepare(netns, url, args)?;
        etcd.restart()?;
        Ok(etcd)
    }

    fn prepare(netns: Option<&str>, url: String, args: Vec<String>) -> Result<Self> {
        Ok(Self {
            dir: folder()?,
            netns: netns.map(str::to_owned),
            url,
            args,
            process: None,
        })
    }

    /// Its client URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its folder: in memory, unless `TMPDIR` says where.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its output.
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    /// What runs, unless killed.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("etcd is not running")
    }

    /// How often each call of its key-value service was made, as its own metrics say. Without TLS only.
    pub fn kv_calls(&self) -> Result<Vec<(String, u64)>> {
        let address = self.url.strip_prefix("http://").context("not plain http")?;
        let text = self.within(|| {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })?;
        let calls = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("grpc_server_started_total{")?;
            let (labels, count) = rest.split_once("} ")?;
            let name = labels.split_once("grpc_method=\"")?.1.split_once('"')?.0;
            let of_kv = labels.contains("grpc_service=\"etcdserverpb.KV\"");
            of_kv.then(|| Some((name.to_owned(), count.parse::<f64>().ok()? as u64)))?
        });
        Ok(calls.collect())
    }

    /// kill -9; its data stays for `restart`.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts it (again) on the same address and data, and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready(&[])
    }

    /// Runs `etcdctl` against it.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url))
            .args(args);
        match &self.netns {
            Some(netns) => run(&mut crate::process::within(netns, &command)),
            None => run(&mut command),
        }
    }

    /// Leaves it running for good, and its data: the demo's KEEP=1. Its pid and directory.
    pub fn leave_running(mut self) -> Option<(u32, PathBuf)> {
        let process = self.process.take()?;
        let pid = process.pid();
        process.leave_running();
        Some((pid, self.dir.keep()))
    }

    fn launch(&mut self) -> Result<()> {
        self.kill()?;
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(&self.args)
            .args(["--logger", "zap", "--log-level", "warn"]);
        let process = Process::spawn("etcd", command, self.netns.as_deref(), &self.log_file())?;
        self.process = Some(process);
        Ok(())
    }

    /// Does something where its addresses are.
    fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.netns {
            Some(netns) => within_netns(netns, work),
            None => work(),
        }
    }

    fn wait_ready(&mut self, tls: &[&str]) -> Result<()> {
        let (_, address) = self.url.split_once("://").context("no URL")?;
        let address = address.to_owned();
        let limit = format!("--command-timeout={}s", 10 * patience());
        eventually(START, &format!("etcd on {} answers", self.url), || {
            let process = self.process.as_mut().context("etcd is not running")?;
            process.ensure_running()?;
            // Where nobody listens yet, `etcdctl` would wait until its time is up.
            self.within(|| Ok(TcpStream::connect(&address)?))?;
            // Any answer of the key-value service will do; a server with authentication refuses it.
            let mut args = tls.to_vec();
            args.extend([limit.as_str(), "get", "ready?"]);
            match self.ctl(&args) {
                Ok(_) => Ok(()),
                Err(e) if format!("{e:#}").contains("user name is empty") => Ok(()),
                Err(e) => Err(e),
            }
        })
    }
}

fn folder() -> std::io::Result<TempDir> {
    let in_memory = Path::new(IN_MEMORY);
    match std::env::var_os("TMPDIR") {
        None if in_memory.is_dir() => tempfile::tempdir_in(in_memory),
        _ => tempfile::tempdir(),
    }
}

fn client_args(url: &str) -> Vec<String> {
    ["--listen-client-urls", url, "--advertise-client-urls", url]
        .map(str::to_owned)
        .to_vec()
}

fn peer_args(url: &str) -> Vec<String> {
    ["--listen-peer-urls", url].map(str::to_owned).to_vec()
}

/// Several servers that form one cluster.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Etcd>,
}

impl EtcdCluster {
    /// Starts `size` servers on the loopback address and waits until all of them answer.
    pub fn start(size: usize) -> Result<Self> {
        Self::start_with(size, &[])
    }

    /// As `start`, with more arguments for each server.
    pub fn start_with(size: usize, more: &[&str]) -> Result<Self> {
        let mut ports = Vec::new();
        for _ in 0..size {
            ports.push((free_port()?, free_port()?));
        }
        let peers: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(i, (_, peer))| format!("m{i}=http://127.0.0.1:{peer}"))
            .collect();
        let mut members = Vec::new();
        for (i, (client, peer)) in ports.iter().enumerate() {
            let peer = format!("http://127.0.0.1:{peer}");
            let url = format!("http://127.0.0.1:{client}");
            let mut args = client_args(&url);
            args.extend(peer_args(&peer));
            args.extend(["--name".into(), format!("m{i}")]);
            args.extend(["--initial-advertise-peer-urls".into(), peer]);
            args.extend(["--initial-cluster".into(), peers.join(",")]);
            args.extend(more.iter().map(|&arg| arg.to_owned()));
            let mut member = Etcd::prepare(None, url, args)?;
            member.launch()?;
            members.push(member);
        }
        for member in &mut members {
            member.wait_ready(&[])?;
        }
        Ok(Self { members })
    }

    /// The client URLs.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|m| m.url.clone()).collect()
    }

    /// The index of the member that leads.
    pub fn leader(&self) -> Result<usize> {
        for (index, member) in self.members.iter().enumerate() {
            if member.process.is_none() {
                continue;
            }
            let status = member.ctl(&["endpoint", "status", "--write-out=json"])?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            let status = &status[0]["Status"];
            if status["leader"] == status["header"]["member_id"] {
                return Ok(index);
            }
        }
        Err(anyhow!("no member leads"))
    }

    /// One member.
    pub fn member(&mut self, index: usize) -> &mut Etcd {
        &mut self.members[index]
    }
}
