//! Placeholder doc, replaced with the crate.
