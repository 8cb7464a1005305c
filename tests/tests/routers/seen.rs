//! What can be seen of a host from outside of the command line.
//!
//! ```text
//!   h1 (AS 64512) --- tor (BIRD, AS 65000)
//! ```
//! 1. Metrics, liveness and readiness over HTTP on 127.0.0.1:9091.
//! 2. A BMP collector (RFC 7854) that the agent's configuration names is told of the sessions.
//! 3. `margayctl bgp refresh` asks a peer for its routes (RFC 2918), one that there is.
//! 4. `margayctl bgp dump --mrt` is read by bgpdump (RFC 6396).

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use margay_lab::{NetNs, eventually, run};

use crate::support::{Rack, SOON};

/// Status line and body of a GET.
fn get(netns: &NetNs, path: &str) -> Result<(String, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = netns.within(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9091")?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// The value of a sample.
fn sample(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    let text = line.with_context(|| format!("no {name} in {metrics}"))?;
    Ok(text.parse()?)
}

#[test]
fn metrics_collectors_and_archives_tell_of_a_host() -> Result<()> {
    let mut rack = Rack::new(1)?;
    rack.established()?;
    let container = rack.cluster.attach(0, "c1")?;
    let address = container.v4()?;
    let host = &rack.hosts()[0];
    let tor = host.tor_v4;

    eventually(SOON, "the host is ready", || {
        let (status, body) = get(&host.netns, "/readiness")?;
        ensure!(status == "HTTP/1.1 200 OK", "{status} {body}");
        Ok(())
    })?;
    ensure!(get(&host.netns, "/liveness")?.0 == "HTTP/1.1 200 OK");
    ensure!(get(&host.netns, "/")?.0 == "HTTP/1.1 404 Not Found");
    eventually(SOON, "the metrics", || {
        let (_, metrics) = get(&host.netns, "/metrics")?;
        for (name, value) in [
            ("margay_agent_ready".to_owned(), 1.0),
            ("margay_datastore_connected".to_owned(), 1.0),
            ("margay_dataplane_failing".to_owned(), 0.0),
            ("felix_active_local_endpoints".to_owned(), 1.0),
            (format!("margay_bgp_sessions_up{{peer=\"{tor}\"}}"), 1.0),
            ("margay_bgp_connections_refused_total".to_owned(), 0.0),
        ] {
            ensure!(sample(&metrics, &name)? == value, "{name}: {metrics}");
        }
        // Once more where both dialled at once, and BIRD took the second connection for a restart.
        let came_up = format!("margay_bgp_established_total{{peer=\"{tor}\"}}");
        ensure!(sample(&metrics, &came_up)? >= 1.0, "{metrics}");
        ensure!(sample(&metrics, "margay_bgp_prefixes")? >= 1.0, "{metrics}");
        ensure!(sample(&metrics, "process_resident_memory_bytes")? > 1e6);
        Ok(())
    })?;

    let ctl = rack.agent(0).ctl();
    let asked = ctl.run(&format!("bgp refresh {tor}"))?;
    ensure!(
        asked == format!("asked {tor} to send all its routes again\n"),
        "{asked}"
    );
    let nobody = ctl.run("bgp refresh 203.0.113.9");
    let error = nobody.err().context("there is no such peer")?.to_string();
    ensure!(
        error.contains("no BGP peer has the address or name"),
        "{error}"
    );

    let file = rack.cluster.lab.dir().join("table.mrt");
    let dump = format!("bgp dump --mrt {}", file.display());
    rack.agent(0).ctl().run(&dump)?;
    let routes = run(Command::new("bgpdump").arg("-m").arg(&file))?;
    ensure!(routes.contains(&format!("|{address}/32|")), "{routes}");

    let collector = host
        .netns
        .within(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
    let at = collector.local_addr()?;
    let conf = rack.agent(0).config_file();
    let text = fs::read_to_string(&conf)?;
    fs::write(&conf, format!("{text}\nbmp: [{{collector: '{at}'}}]\n"))?;
    rack.cluster.agents[0].restart()?;
    let (mut stream, _) = collector.accept()?;
    stream.set_read_timeout(Some(SOON))?;
    // Initiation first, then a peer that is up.
    for kind in [4, 3] {
        let mut head = [0; 6];
        stream.read_exact(&mut head)?;
        ensure!((head[0], head[5]) == (3, kind), "{head:?}");
        let len = u32::from_be_bytes(head[1..5].try_into()?) as usize;
        stream.read_exact(&mut vec![0; len - 6])?;
    }
    Ok(())
}
