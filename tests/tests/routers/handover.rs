//! Agents that are restarted as planned: no BGP session ends.
//!
//! The rack of `restart`, with an agent that is reloaded, or stopped and started by a service manager:
//! 1. Its sessions with the router and the other hosts go on: both ends have them since when they had them before, and
//!    the router has counted no route that was announced again or withdrawn.
//! 2. No packet is lost, and nothing happens to any route anywhere.
//! 3. What changed while nobody was there arrives, from both sides.
//! 4. The next one may be another program file: an upgrade.
//!
//! 5. What cannot be handed over is a graceful restart: a state that is damaged, a manager that keeps nothing, an
//!    agent that is killed while it hands over, one that is killed when it has just taken over.

use std::fs;
use std::thread::sleep;

use anyhow::{Context, Result, ensure};
use margay_lab::{Manager, binary, ensure_no_route, eventually};
use nix::sys::signal::Signal;

use crate::restart::{AWAY, Watch, everybody_knows, rack};
use crate::support::{Rack, SOON, ups};

/// The agent that is restarted.
const IT: usize = 1;

/// What the router counts of the sessions with that agent, and since when it has them: milliseconds of the day.
fn account(rack: &Rack) -> Result<(Vec<String>, Vec<i64>)> {
    let mut account = Vec::new();
    for name in ["h2_v4", "h2_v6"] {
        let told = rack.tor.ctl(&format!("show protocols all {name}"))?;
        let counts = |line: &&str| {
            let line = line.trim_start();
            ["h2_", "Import ", "Export ", "BGP state"]
                .iter()
                .any(|start| line.starts_with(start))
        };
        account.extend(told.lines().filter(counts).map(str::to_owned));
    }
    ensure!(account.len() > 8, "{account:?}");
    let words = || account.iter().flat_map(|line| line.split_whitespace());
    let times: Vec<i64> = words().filter_map(millis).collect();
    ensure!(times.len() == 2, "{account:?}");
    let counts = words().filter(|word| millis(word).is_none());
    Ok((counts.map(str::to_owned).collect(), times))
}

/// `21:23:43.522`.
fn millis(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut part = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    Some(((hours * 60.0 + minutes) * 60_000.0 + seconds * 1000.0) as i64)
}

/// BIRD's arithmetic is not exact, where it does not get to a processor between two looks at its clocks. Milliseconds;
/// a session that came anew would be younger by more.
const SLACK: i64 = 300;

/// The router has the sessions since when it had them.
fn since(rack: &Rack, before: &[i64]) -> Result<()> {
    let (_, now) = account(rack)?;
    let same = now.iter().zip(before).all(|(a, b)| (a - b).abs() < SLACK);
    ensure!(same, "{before:?} {now:?}");
    Ok(())
}

/// For messages.
fn log_tail(rack: &Rack) -> Result<String> {
    let log = fs::read_to_string(rack.agent(IT).log_file())?;
    let lines: Vec<&str> = log.lines().collect();
    Ok(lines[lines.len().saturating_sub(40)..].join("\n"))
}

fn told_times(rack: &Rack, what: &str) -> Result<usize> {
    let log = fs::read_to_string(rack.agent(IT).log_file())?;
    Ok(log.lines().filter(|line| line.contains(what)).count())
}

/// It has taken over four sessions for the `times`th time, and is ready; that with the router came up `ups` times.
fn took_over(rack: &Rack, times: usize, came_up: usize) -> Result<()> {
    eventually(SOON, "it takes over", || {
        let told = told_times(rack, "took over sessions")?;
        ensure!(told == times, "{told} times");
        Ok(())
    })?;
    eventually(SOON, "it is ready", || rack.agent(IT).ensure_ready())?;
    rack.established()?;
    let tor = rack.hosts()[IT].tor_v4;
    ensure!(
        ups(rack.agent(IT), tor)? == came_up,
        "another session came up"
    );
    Ok(())
}

#[test]
fn a_reload_ends_no_session() -> Result<()> {
    let mut rack = rack()?;
    let containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;
    let before = account(&rack)?;
    let came_up = ups(rack.agent(IT), rack.hosts()[IT].tor_v4)?;
    let watch = Watch::start(&rack, &containers)?;
    sleep(AWAY);
    for times in 1..=3 {
        rack.cluster.agents[IT].process()?.signal(Signal::SIGHUP)?;
        took_over(&rack, times, came_up)?;
        let now = account(&rack)?.0;
        ensure!(now == before.0, "{:?}\n{now:?}", before.0);
        since(&rack, &before.1)?;
    }
    watch.quiet("SIGHUP")?;
    let late = rack.cluster.attach(IT, "late")?;
    everybody_knows(&rack, &[late])
}

/// Stopped, away for a while, and started again.
fn restart(rack: &mut Rack, manager: &Manager) -> Result<()> {
    let agent = &mut rack.cluster.agents[IT];
    agent.process()?.stop()?;
    sleep(AWAY);
    agent.restart_under(manager)
}

#[test]
fn a_restart_by_the_service_manager_ends_no_session() -> Result<()> {
    let mut rack = rack()?;
    let manager = Manager::start(rack.cluster.lab.dir())?;
    // From here on it has one.
    rack.cluster.agents[IT].process()?.stop()?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    rack.established()?;
    let mut containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;
    let before = account(&rack)?;
    let sessions = told_times(&rack, "session up")?;
    let watch = Watch::start(&rack, &containers)?;
    for times in 1..=5 {
        if times == 3 {
            let upgrade = rack.cluster.lab.dir().join("margayd-upgraded");
            fs::copy(binary("margayd")?, &upgrade)?;
            rack.cluster.agents[IT].set_program(upgrade);
        }
        restart(&mut rack, &manager)?;
        eventually(SOON, "it takes over", || {
            let told = told_times(&rack, "took over sessions")?;
            ensure!(told == times, "{told} times: {}", log_tail(&rack)?);
            rack.agent(IT).ensure_ready()?;
            ensure!(manager.kept() == 0, "what is served is not kept as well");
            let told = told_times(&rack, "result=\"taken_over\" kept=6 lost=0")?;
            ensure!(told == times, "{told} times: {}", log_tail(&rack)?);
            Ok(())
        })?;
        let now = account(&rack)?.0;
        ensure!(now == before.0, "{:?}\n{now:?}", before.0);
        since(&rack, &before.1)?;
    }
    watch.quiet("restarts")?;

    // News from both sides while nobody is there.
    let mut gone = containers.remove(IT);
    rack.cluster.agents[IT].process()?.stop()?;
    eventually(SOON, "four connections and the state are kept", || {
        let kept = manager.kept();
        ensure!(kept > 4, "{kept}");
        Ok(())
    })?;
    gone.cni_del()?;
    let late = rack.cluster.attach(0, "late")?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    everybody_knows(&rack, &[late])?;
    for netns in [&rack.hosts()[0].netns, &rack.cluster.lab.tor] {
        for address in &gone.addresses {
            eventually(SOON, "withdrawn", || ensure_no_route(netns, *address))?;
        }
    }
    ensure!(
        told_times(&rack, "session up")? == sessions,
        "another session came up"
    );
    since(&rack, &before.1)
}

#[test]
fn what_cannot_be_handed_over_is_a_graceful_restart() -> Result<()> {
    let mut rack = rack()?;
    let manager = Manager::start(rack.cluster.lab.dir())?;
    rack.cluster.agents[IT].process()?.stop()?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    rack.established()?;
    let containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;
    let back = |rack: &Rack, what: &str, watch: Watch| -> Result<()> {
        eventually(SOON, "it is ready", || rack.agent(IT).ensure_ready())?;
        rack.established().context(what.to_owned())?;
        everybody_knows(rack, &containers)?;
        watch.quiet(what)
    };

    let watch = Watch::start(&rack, &containers)?;
    rack.cluster.agents[IT].process()?.stop()?;
    eventually(SOON, "there is something to spoil", || manager.spoil())?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    back(&rack, "a state that is damaged", watch)?;
    ensure!(told_times(&rack, "of no use")? == 1, "nobody complains");
    ensure!(told_times(&rack, "result=\"unreadable\" kept=0")? == 1);

    let watch = Watch::start(&rack, &containers)?;
    rack.cluster.agents[IT].process()?.stop()?;
    manager.forget();
    rack.cluster.agents[IT].restart_under(&manager)?;
    back(&rack, "a manager that keeps nothing", watch)?;

    // Whatever has reached the manager by then.
    let watch = Watch::start(&rack, &containers)?;
    rack.cluster.agents[IT].process()?.signal(Signal::SIGTERM)?;
    eventually(SOON, "it is about to hand over", || {
        let told = told_times(&rack, "signal=\"SIGTERM\"")?;
        ensure!(told == 4, "{told} times");
        Ok(())
    })?;
    rack.cluster.agents[IT].kill()?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    back(&rack, "kill -9 while it hands over", watch)?;

    let watch = Watch::start(&rack, &containers)?;
    let taken = told_times(&rack, "took over sessions")?;
    rack.cluster.agents[IT].process()?.stop()?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    eventually(SOON, "it takes over", || {
        let told = told_times(&rack, "took over sessions")?;
        ensure!(told == taken + 1, "{told} times");
        Ok(())
    })?;
    rack.cluster.agents[IT].kill()?;
    rack.cluster.agents[IT].restart_under(&manager)?;
    back(&rack, "kill -9 when it has just taken over", watch)
}
