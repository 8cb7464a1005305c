//! Containers that come and go, twenty a second.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use margay_lab::resources::NETWORK;
use margay_lab::{Container, Plugin};

use crate::host::BenchHost;
use crate::usage::Meter;

const A_SECOND: u32 = 20;
/// Each is attached again a second after it went.
const CONTAINERS: usize = 20;

pub(crate) fn run(host: &BenchHost, watched: Duration) -> Result<String> {
    let containers = (0..CONTAINERS).map(|n| {
        let plugin = Plugin::new(&host.agent, host.host(), NETWORK)?;
        Container::new(&host.lab, &format!("churn{n}"), plugin)
    });
    let mut containers = containers.collect::<Result<Vec<_>>>()?;
    let meter = Meter::start(host.agent_pid()?)?;
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < watched {
        let container = &mut containers[calls as usize % CONTAINERS];
        container.cni_add()?;
        container.cni_del()?;
        calls += 1;
        sleep(
            (begun + Duration::from_secs(1) * calls / A_SECOND)
                .saturating_duration_since(Instant::now()),
        );
    }
    let rate = f64::from(calls) / begun.elapsed().as_secs_f64();
    meter.told(&format!(
        "{rate:.1} containers attached and detached a second"
    ))
}
