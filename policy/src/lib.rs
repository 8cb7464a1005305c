//! Policy calculation: from resources to the ordered rule programs of one host's endpoints.
//!
//! Start at [`calc::Calc`]: feed it resources, call [`flush`](calc::Calc::flush), and hand the
//! [`program::Update`]s to a renderer in the order given. [`explain`] evaluates packets over the same
//! programs. The crate never talks to a kernel, a datastore or a clock.

#[cfg(test)]
extern crate self as margay_policy;

pub mod calc;
pub mod explain;
pub mod failsafe;
pub mod index;
pub mod program;
pub mod selector;
pub mod staged;
