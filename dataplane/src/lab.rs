//! Network namespaces for tests.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// A named network namespace with its loopback up; removed when dropped.
#[derive(Debug)]
pub(crate) struct NetNs {
    name: String,
}

impl NetNs {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let ns = Self {
            name: format!("mgydp-{}-{n}", std::process::id()),
        };
        run("ip", &["netns", "add", &ns.name]);
        ns.ip("link set lo up");
        ns
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside; panics if it fails.
    pub(crate) fn ip(&self, args: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(args.split_whitespace());
        run("ip", &all)
    }

    /// Runs a command inside; returns its success and output.
    pub(crate) fn command(&self, line: &str) -> (bool, String) {
        let mut words = line.split_whitespace();
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .arg(words.next().unwrap())
            .args(words)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Runs a closure on a thread of its own inside the namespace; panics come through.
    pub(crate) fn run<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        let file = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                job()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let removed = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
        drop(removed);
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
