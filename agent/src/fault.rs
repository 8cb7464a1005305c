//! Points at which a test makes the agent die as `kill -9` would, in debug builds only.
//!
//! `MARGAY_FAULT=NAME` in the environment names the point. Points count from the first CNI call on, so
//! that one on the way of every change does not keep the agent from starting.

/// Dies here if this is the point that the environment names.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::Ordering;

    static NAMED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("MARGAY_FAULT").ok());
    if ARMED.load(Ordering::Relaxed) && NAMED.as_deref() == Some(name) {
        std::process::abort();
    }
}

/// A CNI call is under way: points count.
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
