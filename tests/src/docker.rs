//! Docker on a host of the lab: a daemon of its own, with everything that it starts.
//!
//! The daemon and its containers are in a process namespace of their own, so that nothing outlives the guard, and in a
//! mount namespace with a /run/docker of their own, so that each host finds its own agent's plugin.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::Agent;
use crate::eventually::eventually;
use crate::lab::Host;
use crate::process::{Process, run};

/// Debian's daemon takes seconds on a loaded machine.
const START: Duration = Duration::from_secs(60);

/// The image of every container: busybox, and a shell that resolves names.
pub const IMAGE: &str = "lab";

/// A docker daemon. Dropping it kills it, and all its containers.
#[derive(Debug)]
pub struct Docker {
    dir: PathBuf,
    /// In whose namespaces the daemon and the containers run.
    keeper: Process,
    daemon: Option<Process>,
}

impl Docker {
    /// Adds to the agent's configuration that it serves Docker; for an agent that is yet to start.
    pub fn configure(agent: &Agent, host: &Host) -> Result<()> {
        let (socket, api) = (
            plugins(host).join("margay.sock"),
            host.dir.join("docker.sock"),
        );
        let mut config = fs::read_to_string(agent.config_file())?;
        config += &format!(
            "docker:\n  socket: {}\n  api: {}\n",
            socket.display(),
            api.display()
        );
        fs::write(agent.config_file(), config)?;
        Ok(())
    }

    /// Starts a daemon on `host`, which has an agent that was configured for it, and gives it the [`IMAGE`].
    pub fn start(host: &Host) -> Result<Self> {
        let dir = host.dir.clone();
        fs::create_dir_all(plugins(host))?;
        // As after a start of the host: what is in /run is gone.
        for left in ["ready", "docker.pid"] {
            fs::remove_file(dir.join(left)).ok();
        }
        fs::remove_dir_all(dir.join("docker-exec")).ok();
        let script = format!(
            "mount -t tmpfs t /run/docker && mkdir /run/docker/plugins && \
             mount --bind {} /run/docker/plugins && mount -t tmpfs t /run/containerd && \
             touch {} && exec tini -s -- sleep infinity",
            plugins(host).display(),
            dir.join("ready").display(),
        );
        for mount_point in ["/run/docker", "/run/containerd"] {
            fs::create_dir_all(mount_point)?;
        }
        let mut keeper = Command::new("unshare");
        keeper.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ]);
        keeper.args(["sh", "-c", &script]);
        let log = dir.join("docker-keeper.log");
        let mut docker = Self {
            keeper: Process::spawn("keeper", keeper, Some(host.netns.name()), &log)?,
            dir,
            daemon: None,
        };
        eventually(START, "the daemon's namespaces are there", || {
            docker.keeper.ensure_running()?;
            fs::metadata(docker.dir.join("ready")).context("not yet")
        })?;
        docker.restart()?;
        docker.import()?;
        Ok(docker)
    }

    /// Starts the daemon (again) and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        let (dir, socket) = (self.dir.display(), self.socket());
        let mut command = self.inside("dockerd")?;
        command.args([
            "--bridge=none",
            "--iptables=false",
            "--ip-masq=false",
            "--live-restore",
        ]);
        command.arg(format!("--data-root={dir}/docker"));
        command.arg(format!("--exec-root={dir}/docker-exec"));
        command.arg(format!("--pidfile={dir}/docker.pid"));
        command.arg(format!("--host=unix://{}", socket.display()));
        let log = self.dir.join("dockerd.log");
        self.daemon = Some(Process::spawn("dockerd", command, None, &log)?);
        eventually(START, "the daemon answers", || {
            self.daemon.as_mut().context("started")?.ensure_running()?;
            UnixStream::connect(&socket).context("its socket is not there")?;
            self.run("version --format {{.Server.Version}}")
        })?;
        Ok(())
    }

    /// kill -9. Containers go on.
    pub fn kill(&mut self) -> Result<()> {
        let pid = fs::read_to_string(self.dir.join("docker.pid"))?;
        run(self.inside("kill")?.args(["-9", pid.trim()]))?;
        if let Some(mut daemon) = self.daemon.take() {
            let ended = eventually(START, "the daemon is gone", || {
                ensure!(daemon.ensure_running().is_err(), "still there");
                Ok(())
            });
            ended?;
        }
        // A daemon that was killed leaves its file, and the next one would take some other process for it.
        fs::remove_file(self.dir.join("docker.pid"))?;
        Ok(())
    }

    /// `docker` with arguments split at spaces. What it prints, without the line's end.
    pub fn run(&self, args: &str) -> Result<String> {
        let text = run(self.command().args(args.split_whitespace()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Starts `docker` with arguments split at spaces, and waits for nothing.
    pub fn spawn(&self, args: &str) -> Result<Child> {
        let mut command = self.command();
        command.args(args.split_whitespace());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    /// Fetches the page of a server from inside a container. `to` is a name or an address.
    pub fn fetch(&self, container: &str, to: &str, timeout: Duration) -> Result<String> {
        let script = r#"exec 3<>/dev/tcp/$1/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3"#;
        let secs = timeout.as_secs().max(1).to_string();
        let mut command = self.command();
        command.args([
            "exec", container, "timeout", &secs, "bash", "-c", script, "-", to,
        ]);
        let answer = run(&mut command)?;
        let (_, page) = answer.split_once("\r\n\r\n").context("no page")?;
        Ok(page.to_owned())
    }

    /// `docker inspect`, the one object.
    pub fn inspect(&self, what: &str) -> Result<Value> {
        let text = self.run(&format!("inspect {what}"))?;
        let all: Vec<Value> = serde_json::from_str(&text)?;
        all.into_iter().next().context("nothing inspected")
    }

    /// The file of a running container's network namespace.
    pub fn netns_of(&self, container: &str) -> Result<PathBuf> {
        let inspected = self.inspect(container)?;
        let key = inspected["NetworkSettings"]["SandboxKey"].as_str();
        let key = key.filter(|key| !key.is_empty()).context("no sandbox")?;
        // As the daemon sees it.
        Ok(PathBuf::from(format!("/proc/{}/root{key}", self.child()?)))
    }

    /// The daemon's output.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("dockerd.log")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()));
        command.env_remove("DOCKER_CONTEXT").env("HOME", &self.dir);
        command
    }

    /// The keeper is the wrapper; its child has the namespaces.
    fn child(&self) -> Result<String> {
        let keeper = self.keeper.pid();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))?;
        let child = children.split_whitespace().next();
        Ok(child.context("the keeper has ended")?.to_owned())
    }

    /// A program in the daemon's namespaces.
    fn inside(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.child()?]);
        command.args(["--net", "--mount", "--pid", "--", program]);
        Ok(command)
    }

    fn import(&self) -> Result<()> {
        if self.run(&format!("image inspect {IMAGE}")).is_ok() {
            // The host was started anew, with its disk.
            return Ok(());
        }
        let root = self.dir.join("image");
        let bin = root.join("bin");
        // Of an earlier daemon, whose disk was lost.
        fs::remove_dir_all(&root).ok();
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(root.join("www"))?;
        fs::write(root.join("www/index.html"), "served\n")?;
        fs::copy(busybox()?, bin.join("busybox"))?;
        for applet in ["cat", "httpd", "sh", "sleep", "timeout"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        // A static program cannot look up names: that needs the C library, as a file.
        fs::copy("/bin/bash", bin.join("bash"))?;
        for library in libraries("/bin/bash")? {
            let place = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(place.parent().context("a library without a folder")?)?;
            fs::copy(library, place)?;
        }
        let tar = self.dir.join("image.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&tar)
            .arg("."))?;
        run(self.command().arg("import").arg(&tar).arg(IMAGE))?;
        Ok(())
    }
}

fn plugins(host: &Host) -> PathBuf {
    host.dir.join("plugins")
}

/// The files that a program is linked with.
fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let text = run(Command::new("ldd").arg(program))?;
    let words = text.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn busybox() -> Result<PathBuf> {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let found = places.into_iter().find(|path| path.exists());
    Ok(found.context("busybox-static is not installed")?.to_owned())
}
