//! Archives (RFC 6396), read back by bgpdump and by GoBGP.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use margay_lab::{Process, eventually, free_port, run};
use margay_speaker::{
    LocalAction, LocalAttrs, LocalRouteChange,
    mrt::{UpdateLog, write_table},
};

use crate::{
    limits::{Ours, speaker},
    raw::{PATIENCE, withdrawal},
};

fn bgpdump(file: &Path) -> Result<String> {
    run(Command::new("bgpdump").args(["-v", "-m"]).arg(file))
}

/// A speaker with 20,000 routes of a peer and one of each family of its own.
fn loaded() -> Result<(Ours, crate::raw::RawPeer)> {
    let ours = speaker(&[2, 3])?;
    let mut feeder = ours.peer(2)?;
    feeder.send(&feeder.announcement(0..20_000, 7)?)?;
    let announce = |prefix: &str| -> Result<LocalRouteChange> {
        Ok(LocalRouteChange {
            prefix: prefix.parse()?,
            action: LocalAction::Announce(LocalAttrs {
                communities: vec![65000 << 16 | 9],
                ..LocalAttrs::default()
            }),
        })
    };
    let own = vec![announce("198.51.100.0/24")?, announce("2001:db8:7::/48")?];
    ours.runtime.block_on(ours.speaker.originate(own))?;
    let mut witness = ours.peer(3)?;
    witness.hears("all routes", |told| told.len() == 20_001)?;
    Ok((ours, feeder))
}

#[test]
fn a_snapshot_reads_back_with_every_route_and_its_attributes() -> Result<()> {
    let (ours, _feeder) = loaded()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("table.mrt");
    let queries = ours.speaker.queries();
    ours.runtime.block_on(write_table(&queries, &file))?;

    let text = bgpdump(&file)?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 20_002);
    let of = |prefix: &str| -> Result<Vec<&str>> {
        let wanted = format!("|{prefix}|");
        let found: Vec<_> = lines.iter().filter(|l| l.contains(&wanted)).collect();
        ensure!(found.len() == 1, "{prefix}: {found:?}");
        Ok(found[0].split('|').collect())
    };
    let learnt = of("16.0.9.0/24")?;
    assert_eq!(learnt[3..5], ["127.0.0.2", "65002"]);
    assert_eq!(
        learnt[6..11],
        ["65002 1001 3356", "IGP", "192.0.2.2", "0", "7"]
    );
    assert_eq!(of("198.51.100.0/24")?[11], "65000:9");
    assert_eq!(of("2001:db8:7::/48")?[4], "65000");

    // Another implementation takes it as routes.
    let port = free_port()?.to_string();
    let conf = dir.path().join("gobgp.toml");
    std::fs::write(
        &conf,
        "[global.config]\nas = 65000\nrouter-id = \"192.0.2.9\"\nport = -1\n",
    )?;
    let mut command = Command::new("gobgpd");
    command.arg("-f").arg(&conf).arg("--pprof-disable");
    command.args(["--api-hosts", &format!("127.0.0.1:{port}")]);
    let _gobgpd = Process::spawn("gobgpd", command, None, &dir.path().join("gobgp.log"))?;
    let ask = |words: &[&str]| run(Command::new("gobgp").args(["-p", &port]).args(words));
    eventually(PATIENCE, "gobgpd answers", || ask(&["global"]))?;
    let path = file.to_string_lossy().into_owned();
    ask(&["mrt", "inject", "global", &path, "20002"])?;
    // Its injector leaves before its last batch is taken, so not all are asked for.
    eventually(PATIENCE, "gobgpd has the routes", || {
        let route = ask(&["global", "rib", "16.0.9.0/24"])?;
        ensure!(route.contains("65002 1001 3356"), "{route}");
        Ok(())
    })
}

#[test]
fn updates_and_states_are_appended_as_they_come() -> Result<()> {
    let ours = speaker(&[2])?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("updates.mrt");
    let queries = ours.speaker.queries();
    let log = {
        let _in_runtime = ours.runtime.enter();
        UpdateLog::spawn(file.clone(), move || Some(queries.clone()))
    };
    eventually(PATIENCE, "the file is there", || {
        ensure!(file.exists(), "no file");
        Ok(())
    })?;
    let mut peer = ours.peer(2)?;
    peer.send(&peer.announcement(0..10, 7)?)?;
    peer.send(&withdrawal(3..4))?;
    drop(peer);
    let want = [
        "|A|127.0.0.2|65002|16.0.3.0/24|65002 1000 3356|IGP|192.0.2.2|0|7|",
        "|W|127.0.0.2|65002|16.0.3.0/24",
        "|STATE|127.0.0.2|65002|5|6",
        "|STATE|127.0.0.2|65002|6|1",
    ];
    eventually(PATIENCE, "all is in the file", || {
        let text = bgpdump(&file)?;
        for line in want {
            ensure!(text.contains(line), "{line} is not in {text}");
        }
        Ok(())
    })?;
    drop(log);
    Ok(())
}
