//! Settings that peers share, in the file of the stand-alone daemon.

use serde_norway::{Mapping, Value};

use crate::config::PeerConfig;

/// What is wrong with a file. Nothing of it is used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no YAML, or has a field that does not exist or has another form.
    #[error(transparent)]
    Yaml(#[from] serde_norway::Error),
    /// A peer is in a group that there is not.
    #[error("{peer}: group is {found:?}, allowed is one of: {known}")]
    NoGroup {
        /// Which peer.
        peer: String,
        /// Its group.
        found: String,
        /// The groups that there are.
        known: String,
    },
    /// Routes of the kernel's own would be taken for ours.
    #[error("kernel.protocol is {found}, allowed is 5 to 255")]
    Protocol {
        /// What was found.
        found: u8,
    },
    /// Something that should be a mapping is none.
    #[error("{what} is no mapping of settings")]
    NoMapping {
        /// What it is.
        what: String,
    },
    /// The settings of a peer, its group's included, make no sense.
    #[error("{peer}: {source}")]
    Peer {
        /// Which peer.
        peer: String,
        /// What is wrong.
        #[source]
        source: serde_norway::Error,
    },
}

/// Puts the settings of `peer_groups` into the peers that name one with `group`. What a peer says
/// itself takes the place of what its group says, field by field.
pub(crate) fn apply(file: &mut Value) -> Result<(), FileError> {
    let Some(groups) = file.as_mapping_mut().and_then(|f| f.remove("peer_groups")) else {
        return Ok(());
    };
    let groups = mapping(&groups, "peer_groups")?;
    let Some(speaker) = file.get_mut("speaker") else {
        return Ok(());
    };
    if let Some(peers) = speaker.get_mut("peers").and_then(Value::as_mapping_mut) {
        for (key, peer) in peers.iter_mut() {
            let name = key.as_str().unwrap_or("?");
            join(peer, groups, &format!("peer {name}"))?;
        }
    }
    if let Some(ranges) = speaker.get_mut("dynamic").and_then(Value::as_sequence_mut) {
        for range in ranges {
            let prefix = range.get("prefix").and_then(Value::as_str).unwrap_or("?");
            let name = format!("dynamic peers of {prefix}");
            if let Some(peer) = range.get_mut("peer") {
                join(peer, groups, &name)?;
            }
        }
    }
    Ok(())
}

fn join(peer: &mut Value, groups: &Mapping, name: &str) -> Result<(), FileError> {
    let Some(own) = peer.as_mapping_mut() else {
        let what = name.to_owned();
        return Err(FileError::NoMapping { what });
    };
    let Some(group) = own.remove("group") else {
        return Ok(());
    };
    let Some(shared) = groups.get(&group) else {
        let names = groups.keys().filter_map(Value::as_str);
        return Err(FileError::NoGroup {
            peer: name.to_owned(),
            found: group.as_str().unwrap_or_default().to_owned(),
            known: names.collect::<Vec<_>>().join(", "),
        });
    };
    let group_name = group.as_str().unwrap_or_default();
    for (field, value) in mapping(shared, &format!("peer group {group_name}"))? {
        own.entry(field.clone()).or_insert_with(|| value.clone());
    }
    // Said here, where it is known whose settings they are.
    let checked = serde_norway::from_value::<PeerConfig>(peer.clone());
    let peer = name.to_owned();
    checked
        .map(drop)
        .map_err(|source| FileError::Peer { peer, source })
}

fn mapping<'a>(value: &'a Value, what: &str) -> Result<&'a Mapping, FileError> {
    let what = || what.to_owned();
    value
        .as_mapping()
        .ok_or_else(|| FileError::NoMapping { what: what() })
}
