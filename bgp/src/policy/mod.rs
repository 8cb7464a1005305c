//! Import and export filters: plain rules and their compiled form.

mod compiled;
mod filter;
mod route_match;

pub use filter::{
    Action, Filter, LengthRange, MatchOperator, Operation, PrefixMatch, Rule, Source,
};
pub use route_match::{Community, Facts, RouteMatch, pref_of, priority_of};
