//! Import and export filters: plain rules and their compiled form.

mod compiled;
mod filter;

pub use filter::{
    Action, Filter, LengthRange, MatchOperator, Operation, PrefixMatch, Rule, Source,
};
