//! kill -9 of the process that writes an embedded store.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use margay_datastore::EmbeddedStore;
use margay_model::store::{Store, Txn};

/// Set for the child only: the store file that it shall write until it is killed.
const FILE: &str = "MARGAY_TEST_CRASH_FILE";
/// Kills at least, on however slow a machine.
const ROUNDS: usize = 10;
/// And at most, within this time.
const MOST_ROUNDS: usize = 40;
const ENOUGH: Duration = Duration::from_secs(4);

/// The child's program. Without a file there is nothing to do.
#[tokio::test]
async fn writer() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else {
        return;
    };
    let store = EmbeddedStore::open(&file).unwrap();
    let mut n = store.list("/n/").await.unwrap().kvs.len();
    let mut out = std::io::stdout();
    loop {
        let txn = Txn::default()
            .put(format!("/n/{n:06}"), vec![b'x'; n % 5000])
            .put("/last", n.to_string());
        store.txn(txn).await.unwrap();
        writeln!(out, "acknowledged {n}").unwrap();
        n += 1;
    }
}

#[tokio::test]
async fn kill_9_at_any_time_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let mut acknowledged = 0;
    let mut rounds = 0;
    while rounds < ROUNDS || (begun.elapsed() < ENOUGH && rounds < MOST_ROUNDS) {
        rounds += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writer", "--nocapture"])
            .env(FILE, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Every other one is killed while it opens the file, or soon after.
        if rounds % 2 == 0 {
            acknowledged = lines.by_ref().find_map(count).unwrap();
        }
        std::thread::sleep(Duration::from_micros(random.u64(0..60_000)));
        child.kill().unwrap();
        // What it had said before is still in the pipe.
        acknowledged = lines.filter_map(count).last().unwrap_or(acknowledged);
        child.wait().unwrap();

        let store = EmbeddedStore::open(&file).unwrap();
        let listing = store.list("/n/").await.unwrap();
        let found = listing.kvs.len();
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "seed {seed}, round {rounds}: {acknowledged} acknowledged, {found} found"
        );
        for (n, kv) in listing.kvs.iter().enumerate() {
            assert_eq!(kv.key, format!("/n/{n:06}"));
            assert_eq!(kv.value.len(), n % 5000);
        }
        let last = store.get("/last").await.unwrap();
        let last = last.map(|kv| String::from_utf8(kv.value).unwrap());
        assert_eq!(last, found.checked_sub(1).map(|last| last.to_string()));
        assert_eq!(listing.revision, i64::try_from(found).unwrap());
        // What was found is as good as acknowledged to whoever writes next.
        acknowledged = found;
    }
    assert!(acknowledged > ROUNDS / 2, "seed {seed}: {acknowledged}");
}

/// How many writes a line of the child tells of.
fn count(line: std::io::Result<String>) -> Option<usize> {
    let line = line.unwrap();
    // The harness writes the test's name in front of the first line.
    let (_, n) = line.split_once("acknowledged ")?;
    Some(n.parse::<usize>().unwrap() + 1)
}
