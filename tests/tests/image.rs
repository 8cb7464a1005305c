//! The container image, as the manifests for Kubernetes have it run: by podman, with the volumes, the capabilities and the
//! commands of `deploy/kubernetes/margay.yaml`.
//!
//! 1. The init container installs plugin and list on the host.
//! 2. The agent, in its container, becomes ready by etcd with TLS; the probes of the manifest say so.
//! 3. The installed plugin attaches containers through it, by the paths of namespaces that runtimes use, and they reach each
//!    other and the host.
//! 4. Another container of the same image takes over, and what is attached goes on.
//!
//! ```text
//!   h1: etcd, podman: install-cni, margayd - c1, c2
//! ```
//! The programs are those under test, with the machine's libraries mounted; with `MARGAY_IMAGE=FILE`, an image of
//! `scripts/image.sh` as it is (`make test-image`).

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{EtcdTls, Host, Lab, NetNs, Process, binary, eventually, ping, run};
use serde::Deserialize;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const ETCD: &str = "https://127.0.0.1:2379";

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4}\n\
    spec: {cidr: 10.65.0.0/24}\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The resources of the manifest.
fn manifest() -> Result<Vec<Value>> {
    let text = fs::read_to_string(repository().join("deploy/kubernetes/margay.yaml"))?;
    let all = serde_norway::Deserializer::from_str(&text);
    all.map(|document| Ok(Value::deserialize(document)?))
        .collect()
}

/// A podman with the image, and the folder that stands for the host's root.
struct Podman<'a> {
    host: &'a Host,
    dir: PathBuf,
    root: PathBuf,
    image: String,
    /// What programs need that are not static.
    libraries: Vec<String>,
}

impl<'a> Podman<'a> {
    fn new(host: &'a Host) -> Result<Self> {
        let dir = host.dir.join("podman");
        let root = host.dir.join("root");
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&root)?;
        let at = dir.display();
        let config = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             tmp_dir = \"{at}/tmp\"\nstatic_dir = \"{at}/static\"\nvolume_path = \"{at}/volumes\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:20000\", \"nproc=1024:4096\"]\nlog_driver = \"k8s-file\"\n"
        );
        fs::write(dir.join("containers.conf"), config)?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/graph\"\nrunroot = \"{at}/run\"\n"
        );
        fs::write(dir.join("storage.conf"), storage)?;
        let (archive, libraries) = image(&dir)?;
        let mut podman = Self {
            host,
            dir,
            root,
            image: String::new(),
            libraries,
        };
        let loaded = podman.run(&["load", "-q", "-i", &archive.display().to_string()])?;
        let image = loaded.trim().rsplit(": ").next().context("no image")?;
        podman.image = image.to_owned();
        Ok(podman)
    }

    fn command(&self) -> Command {
        let mut command = self.host.netns.command("podman");
        command
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"));
        command
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String> {
        run(self.command().args(words))
    }

    /// Where a path of the host is. What the kernel has is there once.
    fn on_host(&self, path: &str) -> PathBuf {
        match path {
            "/run/netns" | "/proc/sys/net" => path.into(),
            path => self.root.join(path.trim_start_matches('/')),
        }
    }

    /// The words of `podman run` that say what a container of the pod says.
    fn words(&self, pod: &Value, container: &Value, sources: &Sources) -> Result<Vec<String>> {
        ensure!(
            pod["hostNetwork"] == true && pod["hostPID"] == true,
            "{pod}"
        );
        let netns = self.host.netns.path();
        let mut words = vec![
            format!("--network=ns:{}", netns.display()),
            // What belongs to the network of the host: its name, and its processes.
            "--uts=host".to_owned(),
            "--pid=host".to_owned(),
        ];
        let security = &container["securityContext"];
        for (flag, list) in [("drop", "drop"), ("add", "add")] {
            for capability in strings(&security["capabilities"][list]) {
                words.push(format!("--cap-{flag}={capability}"));
            }
        }
        if security["seccompProfile"]["type"] == "Unconfined" {
            words.push("--security-opt=seccomp=unconfined".to_owned());
        }
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let text = |key: &str| mount[key].as_str().unwrap_or_default();
            let source = sources.get(text("name")).context("an unknown volume")?;
            let source = source.join(text("subPath"));
            let mut options = Vec::new();
            if mount["readOnly"] == true {
                options.push("ro");
            }
            if mount["mountPropagation"] == "HostToContainer" {
                options.push("rslave");
            }
            let options = match options.is_empty() {
                true => String::new(),
                false => format!(":{}", options.join(",")),
            };
            words.push(format!(
                "--volume={}:{}{options}",
                source.display(),
                text("mountPath")
            ));
        }
        words.extend(
            self.libraries
                .iter()
                .map(|lib| format!("--volume={lib}:{lib}:ro")),
        );
        let command = strings(&container["command"]);
        if !command.is_empty() {
            words.push(format!("--entrypoint={}", json!(command)));
        }
        words.push(self.image.clone());
        Ok(words)
    }

    fn start(&self, name: &str, words: &[String]) -> Result<()> {
        let mut all = vec!["run".to_owned(), "-d".to_owned(), format!("--name={name}")];
        all.extend_from_slice(words);
        self.run(&all).map(drop)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let mut remove = self.command();
        drop(
            remove
                .args(["rm", "--all", "--force", "--time", "0"])
                .output(),
        );
    }
}

/// The archive, and the folders that its programs need.
fn image(dir: &Path) -> Result<(PathBuf, Vec<String>)> {
    if let Some(given) = std::env::var_os("MARGAY_IMAGE") {
        return Ok((given.into(), Vec::new()));
    }
    let bin = dir.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["margayd", "margayctl", "margay-cni"] {
        let mut strip = Command::new("strip");
        run(strip.arg("-o").arg(bin.join(name)).arg(binary(name)?))?;
    }
    let mut command = Command::new(repository().join("scripts/image.sh"));
    command.arg(&bin).arg(dir).env("ALLOW_DYNAMIC", "1");
    let archive = run(&mut command)?.trim().into();
    let libraries = ["/lib", "/lib64"].map(str::to_owned);
    let there = libraries.into_iter().filter(|lib| Path::new(lib).is_dir());
    Ok((archive, there.collect()))
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|word| word.as_str().map(str::to_owned))
        .collect()
}

/// Where the content of each volume is.
type Sources = BTreeMap<String, PathBuf>;

/// What a kubelet makes of the pod's volumes.
fn volumes(podman: &Podman<'_>, all: &[Value], pod: &Value, tls: &EtcdTls) -> Result<Sources> {
    let mut sources = Sources::new();
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let name = volume["name"].as_str().context("a volume without a name")?;
        let dir = match volume["hostPath"]["path"].as_str() {
            Some(path) => podman.on_host(path),
            None => podman.dir.join("volumes-of-pod").join(name),
        };
        fs::create_dir_all(&dir)?;
        if let Some(map) = volume["configMap"]["name"].as_str() {
            let named = |d: &&Value| d["kind"] == "ConfigMap" && d["metadata"]["name"] == map;
            let map = all.iter().find(named).context("no such map")?;
            for (file, text) in map["data"].as_object().into_iter().flatten() {
                let text = text.as_str().unwrap_or_default();
                // The one line that an operator has to change.
                ensure!(text.contains("https://192.0.2.1:2379"), "{text}");
                fs::write(dir.join(file), text.replace("https://192.0.2.1:2379", ETCD))?;
            }
        }
        if volume["secret"].is_object() {
            for (file, of) in [
                ("ca.pem", "ca.pem"),
                ("agent.pem", "client.pem"),
                ("agent-key.pem", "client.key"),
            ] {
                fs::copy(tls.file(of), dir.join(file))?;
            }
        }
        sources.insert(name.to_owned(), dir);
    }
    Ok(sources)
}

fn start_etcd(host: &Host, tls: &EtcdTls) -> Result<Process> {
    let mut command = Command::new("etcd");
    let data = host.dir.join("etcd");
    command.arg("--data-dir").arg(&data);
    command.args([
        "--advertise-client-urls",
        ETCD,
        "--listen-client-urls",
        ETCD,
    ]);
    command.args([
        "--listen-peer-urls",
        "http://127.0.0.1:2380",
        "--client-cert-auth",
    ]);
    for (flag, file) in [
        ("--cert-file", "server.pem"),
        ("--key-file", "server.key"),
        ("--trusted-ca-file", "ca.pem"),
    ] {
        command.arg(flag).arg(tls.file(file));
    }
    Process::spawn(
        "etcd",
        command,
        Some(host.netns.name()),
        &host.dir.join("etcd.log"),
    )
}

/// The probes of the manifest, as a kubelet asks.
fn probe(host: &Host, container: &Value) -> Result<()> {
    for probe in ["livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        let text = |key: &str| get[key].as_str().unwrap_or_default();
        let url = format!("http://{}:{}{}", text("host"), get["port"], text("path"));
        host.netns
            .exec(&format!("curl -sS --fail-with-body --max-time 5 {url}"))?;
    }
    Ok(())
}

/// ADD by what was installed on the host; the address.
fn attach(podman: &Podman<'_>, id: &str, container: &NetNs) -> Result<IpAddr> {
    let (bin, conf) = (
        podman.on_host("/opt/cni/bin"),
        podman.on_host("/etc/cni/net.d"),
    );
    let list = fs::read_dir(&conf)?
        .next()
        .context("no list was installed")??;
    let list: Value = serde_json::from_str(&fs::read_to_string(list.path())?)?;
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    // The plugin runs on the host, where the agent's folder is elsewhere in this test.
    plugin["socket"] = json!(podman.on_host("/run/margay").join("margayd.sock"));
    plugin["journal"] = json!(podman.on_host("/var/lib/margay").join("cni-journal"));
    let mut command = podman.host.netns.command(bin.join("margay-cni"));
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", id);
    // As containerd names it.
    command.env(
        "CNI_NETNS",
        Path::new("/var/run/netns").join(container.name()),
    );
    command.env("CNI_IFNAME", "eth0").env("CNI_PATH", &bin);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    std::io::Write::write_all(&mut stdin, plugin.to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}");
    let result: Value = serde_json::from_str(&text)?;
    let address = result["ips"][0]["address"].as_str().context("an address")?;
    Ok(address.split('/').next().unwrap_or_default().parse()?)
}

#[test]
fn the_image_runs_as_the_manifests_say() -> Result<()> {
    let lab = Lab::new(1)?;
    let host = &lab.hosts[0];
    let (c1, c2) = (lab.container_netns("c1")?, lab.container_netns("c2")?);
    let tls = EtcdTls::new("margay-agent")?;
    let _etcd = start_etcd(host, &tls)?;
    let all = manifest()?;
    let daemonset = all.iter().find(|d| d["kind"] == "DaemonSet");
    let pod = &daemonset.context("no DaemonSet")?["spec"]["template"]["spec"];
    let podman = Podman::new(host)?;
    let sources = volumes(&podman, &all, pod, &tls)?;

    let init = podman.words(pod, &pod["initContainers"][0], &sources)?;
    let install = [&["run".to_owned(), "--rm".to_owned()], &init[..]].concat();
    podman.run(&install)?;

    let agent = &pod["containers"][0];
    let words = podman.words(pod, agent, &sources)?;
    let name = format!("{}-agent", lab.name());
    podman.start(&name, &words)?;
    let ready = |name: &str| {
        eventually(SOON, "the probes succeed", || probe(host, agent))
            .with_context(|| podman.run(&["logs", name]).unwrap_or_default())
    };
    ready(&name)?;
    // The image's own command line, inside of it.
    let file = podman.dir.join("pool.yaml");
    fs::write(&file, POOL)?;
    podman.run(&[
        "cp",
        &file.display().to_string(),
        &format!("{name}:/tmp/pool.yaml"),
    ])?;
    podman.run(&[
        "exec",
        &name,
        "/usr/bin/margayctl",
        "apply",
        "-f",
        "/tmp/pool.yaml",
    ])?;

    let first = attach(&podman, "c1", &c1)?;
    let second = attach(&podman, "c2", &c2)?;
    ping(&c1, second, SOON)?;
    ping(&host.netns, first, SOON)?;
    let logs = podman.run(&["logs", &name])?;
    ensure!(
        !logs.contains("ead-only"),
        "something could not be written: {logs}"
    );

    // As a rolling update does it.
    podman.run(&["rm", "--force", "--time", "15", &name])?;
    ping(&c1, second, SOON)?;
    let next = format!("{}-next", lab.name());
    podman.start(&next, &words)?;
    ready(&next)?;
    ping(&c2, first, SOON)?;
    let endpoints = podman.run(&[
        "exec",
        &next,
        "/usr/bin/margayctl",
        "get",
        "wep",
        "-A",
        "-o",
        "name",
    ])?;
    ensure!(endpoints.lines().count() == 2, "{endpoints}");
    Ok(())
}
