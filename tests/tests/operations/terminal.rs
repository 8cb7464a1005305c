//! `top` on a terminal.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use margay_lab::eventually;

use crate::rig::{Rig, SOON};

#[test]
fn top_shows_sessions_and_ends_by_a_key() -> Result<()> {
    let rig = Rig::start(1)?;
    let (text, succeeded) = rig.ctl("top --once")?;
    ensure!(succeeded && text.contains("h1-tor-v4"), "{text}");
    let (text, _) = rig.ctl("top --once --view routes")?;
    ensure!(text.contains("PREFIX"), "{text}");

    // `script` gives it a terminal, and types what it reads.
    let top = rig.cluster.ctl().command()?;
    let words = std::iter::once(top.get_program()).chain(top.get_args());
    let words: Vec<_> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let socket = rig.cluster.agents[0].socket();
    let line = format!(
        "stty rows 24 cols 100; MARGAY_SOCKET={} ETCD_ENDPOINTS={} {} top --interval 1",
        socket.display(),
        rig.cluster.etcd.url(),
        words.join(" ")
    );
    let shown = rig.cluster.lab.dir().join("top.txt");
    let mut child = Command::new("script")
        .args(["-qefc", &line])
        .arg(&shown)
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let screen =
        || String::from_utf8_lossy(&std::fs::read(&shown).unwrap_or_default()).into_owned();
    let shows = |word: &str| {
        eventually(SOON, word, || {
            let screen = screen();
            ensure!(screen.contains(word), "{screen}");
            Ok(())
        })
    };
    let mut keys = child.stdin.take().expect("piped");
    let mut press = |key: &str| std::io::Write::write_all(&mut keys, key.as_bytes());
    shows("h1-tor-v4")?;
    press("4")?;
    shows("PACKETS/S")?;
    press("q")?;
    let ended = eventually(SOON, "q ends it", || {
        let status = child.try_wait()?;
        status.ok_or_else(|| anyhow::anyhow!("still there"))
    })?;
    ensure!(ended.success(), "{ended}");
    // The terminal is given back: its other screen is left.
    ensure!(screen().contains("\u{1b}[?1049l"), "{}", screen());
    Ok(())
}
