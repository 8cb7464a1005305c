//! Points at which a test makes the agent die as `kill -9` would, or stand still, in debug builds only.
//!
//! `MARGAY_FAULT=NAME` in the environment names the point where it dies; with `NAME:stop` the whole process stops there,
//! once, until SIGCONT comes, so that a test can kill whoever waits for it. Points count from the first call of a runtime
//! on, so that one on the way of every change does not keep the agent from starting.

/// Dies or stops here if this is the point that the environment names.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::signal::{Signal, raise};

    static NAMED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("MARGAY_FAULT").ok());
    static STOPPED: AtomicBool = AtomicBool::new(false);
    let Some(named) = NAMED.as_deref().filter(|_| ARMED.load(Ordering::Relaxed)) else {
        return;
    };
    if named == name {
        std::process::abort();
    }
    if named.strip_suffix(":stop") == Some(name) && !STOPPED.swap(true, Ordering::Relaxed) {
        raise(Signal::SIGSTOP).expect("a process may stop itself");
    }
}

/// A call of a runtime is under way: points count.
#[cfg(debug_assertions)]
pub(crate) fn arm() {
    ARMED.store(true, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(debug_assertions)]
static ARMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: &str) {}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn arm() {}
