//! kill -9 of the process that writes an embedded store.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use margay_datastore::EmbeddedStore;
use margay_model::store::{Store, Txn};

/// Set for the child only: the store file that it shall write until it is killed.
const FILE: &str = "MARGAY_TEST_CRASH_FILE";
const ROUNDS: usize = 4;

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
async fn kill_9_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writer", "--nocapture"])
            .env(FILE, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The harness writes the test's name in front of the first line.
            let Some((_, n)) = line.split_once("acknowledged ") else {
                continue;
            };
            acknowledged = n.parse::<usize>().unwrap() + 1;
            seen += 1;
            if seen == 30 + 17 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();

        let store = EmbeddedStore::open(&file).unwrap();
        let listing = store.list("/n/").await.unwrap();
        let found = listing.kvs.len();
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{acknowledged} acknowledged, {found} found"
        );
        for (n, kv) in listing.kvs.iter().enumerate() {
            assert_eq!(kv.key, format!("/n/{n:06}"));
            assert_eq!(kv.value.len(), n % 5000);
        }
        let last = store.get("/last").await.unwrap().unwrap();
        assert_eq!(last.value, (found - 1).to_string().as_bytes());
        assert_eq!(listing.revision, i64::try_from(found).unwrap());
    }
    assert!(acknowledged >= 30 * ROUNDS);
}
