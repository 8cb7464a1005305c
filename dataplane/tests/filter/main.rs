//! The filter on real packets, in namespaces of its own, with nftables and both variants of iptables.
//!
//! ```text
//!   workload mgy1 --+
//!   workload mgy2 --+-- host (forwards, filters) -- up0 -- outside 192.0.2.2
//! ```
//! Needs root.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its lab has failed"
)]
#![expect(
    clippy::print_stderr,
    reason = "clean-up may not panic, so it can only tell"
)]

mod counters;
mod drift;
mod ended;
mod faults;
mod handed_up;
mod hosts;
mod lab;
mod limits;
mod many;
mod moves;
mod nftables;
mod ports;
mod random;
mod segments;
mod settled;
mod verdicts;

/// Each test of the list once per backend.
macro_rules! all_backends {
    ($($name:ident),+ $(,)?) => {
        mod nftables {
            $(#[test] fn $name() { super::$name(margay_dataplane::filter::Backend::Nftables); })+
        }
        crate::both_variants!($($name),+);
    };
}
pub(crate) use all_backends;

/// Each test of the list once per variant of iptables.
macro_rules! both_variants {
    ($($name:ident),+ $(,)?) => {
        mod nft {
            $(#[test] fn $name() { super::$name(crate::lab::NFT); })+
        }
        mod legacy {
            $(#[test] fn $name() { super::$name(crate::lab::LEGACY); })+
        }
    };
}
pub(crate) use both_variants;
