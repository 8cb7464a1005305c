//! Two hosts on one link: ours and a real router's.
//!
//! ```text
//!   us  192.0.2.1, 2001:db8::1 ------ veth ------ 192.0.2.2, 2001:db8::2  them
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Process, eventually, run};
use margay_speaker::{
    FibReceiver, FilterConfig, Handover, LocalAction, LocalAttrs, LocalRouteChange, PeerConfig,
    PeerEvent, PeerKey, PeerStatus, RouteQuery, RouteView, Secret, Speaker, SpeakerConfig, State,
};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The link and a directory for the router's files. Dropping it removes both.
pub(crate) struct Lab {
    pub(crate) us: String,
    pub(crate) them: String,
    pub(crate) dir: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "spk{}x{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let lab = Self {
            us: format!("{name}a"),
            them: format!("{name}b"),
            dir: TempDir::new()?,
        };
        let (us, them) = (lab.us.as_str(), lab.them.as_str());
        ip(&format!("netns add {us}"))?;
        ip(&format!("netns add {them}"))?;
        ip(&format!(
            "link add eth0 netns {us} type veth peer name eth0 netns {them}"
        ))?;
        for (ns, host) in [(us, 1), (them, 2)] {
            // Link-local addresses at once, without a probe for duplicates.
            let no_dad = "net.ipv6.conf.eth0.accept_dad=0";
            run(Command::new("ip").args(["netns", "exec", ns, "sysctl", "-qw", no_dad]))?;
            ip(&format!("-n {ns} addr add 192.0.2.{host}/24 dev eth0"))?;
            ip(&format!(
                "-n {ns} addr add 2001:db8::{host}/64 dev eth0 nodad"
            ))?;
            ip(&format!("-n {ns} link set lo up"))?;
            ip(&format!("-n {ns} link set eth0 up"))?;
        }
        Ok(lab)
    }

    /// A speaker in our namespace.
    pub(crate) fn speaker(&self, config: &SpeakerConfig) -> Result<Ours> {
        self.speaker_with(config, Vec::new())
    }

    /// A speaker in our namespace that originates routes from the start.
    pub(crate) fn speaker_with(
        &self,
        config: &SpeakerConfig,
        routes: Vec<LocalRouteChange>,
    ) -> Result<Ours> {
        Self::speaker_in(&self.us, config, routes)
    }

    /// A speaker in a namespace.
    pub(crate) fn speaker_in(
        ns: &str,
        config: &SpeakerConfig,
        routes: Vec<LocalRouteChange>,
    ) -> Result<Ours> {
        Self::speaker_from(ns, config, routes, None)
    }

    /// A speaker in a namespace that goes on where another one was.
    pub(crate) fn speaker_from(
        ns: &str,
        config: &SpeakerConfig,
        routes: Vec<LocalRouteChange>,
        left: Option<Handover>,
    ) -> Result<Ours> {
        let ns = File::open(format!("/run/netns/{ns}"))?;
        let config = config.clone();
        // The speaker's thread inherits the namespace of the thread that starts it.
        let started = thread::spawn(move || {
            setns(ns, CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(Speaker::spawn_from(config, routes, left)?)
        });
        let (speaker, fib) = started.join().ok().context("the thread panicked")??;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Ours {
            speaker,
            fib,
            runtime,
        })
    }

    /// A router of AS 65000 + `host` at 192.0.2.`host` in the namespace `at`, which tells the one in
    /// the other namespace, whose host number is `to`, of `prefixes`.
    pub(crate) fn source(&self, at: &str, host: u8, to: u8, prefixes: &[&str]) -> Result<Ours> {
        self.source_with(at, host, to, prefixes, None)
    }

    /// The same with a TCP MD5 key.
    pub(crate) fn source_with(
        &self,
        at: &str,
        host: u8,
        to: u8,
        prefixes: &[&str],
        key: Option<&str>,
    ) -> Result<Ours> {
        ip(&format!("-n {at} addr add 192.0.2.{host}/24 dev eth0"))?;
        let mut config = SpeakerConfig::new(65000 + u32::from(host), [192, 0, 2, host].into());
        let peer = PeerConfig {
            source: Some([192, 0, 2, host].into()),
            password: key.map(|key| Secret::new(key.to_owned())),
            export: FilterConfig::accept_all(),
            connect_retry_secs: 1,
            ..PeerConfig::new(65000 + u32::from(to))
        };
        let key: PeerKey = std::net::IpAddr::from([192, 0, 2, to]).into();
        config.peers.insert(key, peer);
        Self::speaker_in(at, &config, local_routes(prefixes, true)?)
    }

    /// Starts BIRD in their namespace. `bgp` goes into the protocol block, which has both families.
    pub(crate) fn bird(&self, bgp: &str) -> Result<Bird> {
        self.bird_with(&format!(
            "router id 192.0.2.2;
                 protocol device {{}}
                 protocol static s4 {{ ipv4; route 10.1.0.0/24 blackhole; }}
                 protocol static s6 {{ ipv6; route 2001:db8:beef::/48 blackhole; }}
                 protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
                   connect retry time 1; connect delay time 1; error wait time 1, 2; {bgp}
                   ipv4 {{ import all; export where source = RTS_STATIC; }};
                   ipv6 {{ import all; export where source = RTS_STATIC; }}; }}"
        ))
    }

    /// Starts BIRD in their namespace with this configuration.
    pub(crate) fn bird_with(&self, text: &str) -> Result<Bird> {
        let conf = self.dir.path().join("bird.conf");
        std::fs::write(&conf, text)?;
        let control = self.dir.path().join("bird.ctl");
        let mut command = Command::new("bird");
        command
            .arg("-f")
            .arg("-c")
            .arg(&conf)
            .arg("-s")
            .arg(&control);
        let log = self.dir.path().join("bird.log");
        let process = Process::spawn("bird", command, Some(&self.them), &log)?;
        let bird = Bird { process, control };
        eventually(PATIENCE, "bird answers", || bird.ask("show status"))?;
        Ok(bird)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [&self.us, &self.them] {
            // Nothing is left to do about a namespace that is gone already.
            drop(ip(&format!("netns del {ns}")));
        }
    }
}

/// `ip` with arguments.
pub(crate) fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Does something in a network namespace.
pub(crate) fn within<T: Send + 'static>(
    ns: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ns = File::open(format!("/run/netns/{ns}"))?;
    let thread = thread::spawn(move || {
        setns(ns, CloneFlags::CLONE_NEWNET)?;
        work()
    });
    thread.join().expect("it does not panic")
}

/// A running BIRD.
pub(crate) struct Bird {
    pub(crate) process: Process,
    control: std::path::PathBuf,
}

impl Bird {
    /// The answer to a command.
    pub(crate) fn ask(&self, command: &str) -> Result<String> {
        run(Command::new("birdc")
            .arg("-s")
            .arg(&self.control)
            .args(command.split_whitespace()))
    }

    /// Waits until BIRD's answer to `command` contains `text`.
    pub(crate) fn shows(&self, command: &str, text: &str) -> Result<()> {
        eventually(
            PATIENCE,
            &format!("bird's `{command}` shows `{text}`"),
            || {
                let answer = self.ask(command)?;
                ensure!(answer.contains(text), "{answer}");
                Ok(())
            },
        )
    }

    /// Waits until BIRD's answer to `command` does not contain `text`.
    pub(crate) fn shows_no(&self, command: &str, text: &str) -> Result<()> {
        eventually(
            PATIENCE,
            &format!("bird's `{command}` shows no `{text}`"),
            || {
                let answer = self.ask(command)?;
                ensure!(!answer.contains(text), "{answer}");
                Ok(())
            },
        )
    }
}

/// Our speaker, driven from a blocking test.
pub(crate) struct Ours {
    pub(crate) speaker: Speaker,
    pub(crate) fib: FibReceiver,
    pub(crate) runtime: Runtime,
}

impl Ours {
    pub(crate) fn originate(&self, prefixes: &[&str], announce: bool) -> Result<()> {
        let changes = local_routes(prefixes, announce)?;
        Ok(self.runtime.block_on(self.speaker.originate(changes))?)
    }

    pub(crate) fn status(&self) -> Result<PeerStatus> {
        let all = self.runtime.block_on(self.speaker.status())?;
        all.into_iter().next().context("no peer")
    }

    /// Best routes that are not ours, with their next hops, as text.
    pub(crate) fn learnt(&self) -> Result<BTreeMap<String, String>> {
        let routes = self
            .runtime
            .block_on(self.speaker.routes(RouteQuery::Best))?;
        Ok(routes
            .into_iter()
            .filter(|r| !r.next_hops.is_empty())
            .map(|r| (r.prefix.to_string(), format!("{:?}", r.next_hops)))
            .collect())
    }

    /// Every path of a prefix, the selected one first.
    pub(crate) fn paths(&self, prefix: &str) -> Result<Vec<RouteView>> {
        let query = RouteQuery::Lookup(prefix.parse()?);
        Ok(self.runtime.block_on(self.speaker.routes(query))?)
    }

    /// The selected route of a prefix.
    pub(crate) fn best(&self, prefix: &str) -> Result<RouteView> {
        self.paths(prefix)?.into_iter().next().context("no path")
    }

    pub(crate) fn is_up(&self) -> Result<()> {
        eventually(PATIENCE, "the session is up", || {
            let status = self.status()?;
            ensure!(status.state == State::Established, "{status:?}");
            Ok(())
        })
    }

    pub(crate) fn is_down(&self) -> Result<PeerStatus> {
        eventually(PATIENCE, "the session is down", || {
            let status = self.status()?;
            ensure!(status.state != State::Established, "{status:?}");
            Ok(status)
        })
    }

    /// The session has ended, and the event of that says so.
    pub(crate) fn ended_by(&self, reason: &str) -> Result<()> {
        eventually(PATIENCE, &format!("the session ends by `{reason}`"), || {
            let events = self.runtime.block_on(self.speaker.queries().events())?;
            let established = State::Established.to_string();
            let is_it = |e: &PeerEvent| e.from.to_string() == established && e.reason == reason;
            ensure!(events.iter().any(is_it), "{events:?}");
            Ok(())
        })
    }

    pub(crate) fn learns(&self, prefix: &str) -> Result<String> {
        eventually(PATIENCE, &format!("{prefix} is learnt"), || {
            let learnt = self.learnt()?;
            learnt
                .get(prefix)
                .cloned()
                .with_context(|| format!("{learnt:?}"))
        })
    }

    pub(crate) fn loses(&self, prefix: &str) -> Result<()> {
        eventually(PATIENCE, &format!("{prefix} is lost"), || {
            let learnt = self.learnt()?;
            ensure!(!learnt.contains_key(prefix), "{learnt:?}");
            Ok(())
        })
    }
}

/// Us, AS 65001, with them, AS 65002, as a peer that may tell and be told everything.
pub(crate) fn config(peer: PeerConfig) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(65001, [192, 0, 2, 1].into());
    config.listen.insert(([0, 0, 0, 0], 179).into());
    let key: PeerKey = std::net::IpAddr::from([192, 0, 2, 2]).into();
    config.peers.insert(key, peer);
    config
}

/// Them, with everything allowed and quick timers.
pub(crate) fn them() -> PeerConfig {
    PeerConfig {
        import: FilterConfig::accept_all(),
        export: FilterConfig::accept_all(),
        connect_retry_secs: 1,
        hold_time_secs: 9,
        ..PeerConfig::new(65002)
    }
}

/// Changes that announce or withdraw `prefixes`, with a community.
pub(crate) fn local_routes(prefixes: &[&str], announce: bool) -> Result<Vec<LocalRouteChange>> {
    let change = |prefix: &&str| {
        let action = if announce {
            let communities = vec![65001 << 16 | 7];
            LocalAction::Announce(LocalAttrs {
                communities,
                ..LocalAttrs::default()
            })
        } else {
            LocalAction::Withdraw
        };
        Ok(LocalRouteChange {
            prefix: prefix.parse()?,
            action,
        })
    };
    prefixes.iter().map(change).collect()
}
