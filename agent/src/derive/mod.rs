//! Pure functions from the resources to what each part of the agent should have.

mod filters;
mod globals;
mod peers;
mod speaker;
mod world;

pub(crate) use globals::{globals, tuning};
pub(crate) use speaker::{BgpSettings, speaker};
pub(crate) use world::{moves, refresh_world};
