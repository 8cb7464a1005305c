//! The settings that a host has beside the datastore, as `margayctl config show NODE` prints them.

use serde::{Deserialize, Serialize};

/// Settings of one agent's environment and file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// The node's name in the datastore.
    pub node: String,
    /// Settings of FelixConfiguration in the agent's environment.
    pub environment: Vec<Setting>,
    /// Those in its configuration file, which the environment hides.
    pub file: Vec<Setting>,
}

/// A member of FelixConfiguration's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value as JSON.
    pub json: String,
}
