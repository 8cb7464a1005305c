//! Passwords of peers, which resources only name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use margay_datastore::SyncEvent;
use margay_model::bgp_peer::BgpPassword;
use margay_speaker::{Secret, SecretError};

/// Secrets that the datastore holds, at `ROOT/margay/v1/secrets/NAME/KEY`.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredSecrets {
    prefix: String,
    /// By `NAME/KEY`.
    known: BTreeMap<String, Secret>,
    /// What of a list that is coming in has come.
    listing: Option<BTreeSet<String>>,
}

impl StoredSecrets {
    /// Of the datastore with its keys below `root`.
    pub(crate) fn new(root: &str) -> Self {
        Self {
            prefix: format!("{root}/margay/v1/secrets/"),
            ..Self::default()
        }
    }

    /// Where they are.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Takes note of what concerns secrets; whether anything has changed.
    pub(crate) fn hear(&mut self, event: &SyncEvent) -> bool {
        match event {
            SyncEvent::Init => {
                self.listing = Some(BTreeSet::new());
                false
            }
            SyncEvent::InitApply(kv) | SyncEvent::Apply(kv) => self.put(&kv.key, &kv.value),
            SyncEvent::InitDone { .. } => {
                let before = self.known.len();
                if let Some(listing) = self.listing.take() {
                    self.known.retain(|name, _| listing.contains(name));
                }
                self.known.len() != before
            }
            SyncEvent::Delete { key, .. } => {
                let name = key.strip_prefix(&self.prefix);
                name.is_some_and(|name| self.known.remove(name).is_some())
            }
        }
    }

    /// A value of the datastore; whether it is a secret, and news.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> bool {
        let Some(name) = key.strip_prefix(&self.prefix) else {
            return false;
        };
        if let Some(listing) = &mut self.listing {
            listing.insert(name.to_owned());
        }
        let text = String::from_utf8_lossy(value);
        let secret = Secret::new(text.trim_end_matches(['\n', '\r']).to_owned());
        let before = self.known.insert(name.to_owned(), secret.clone());
        before != Some(secret)
    }
}

/// Reads what `password.secretKeyRef` names: the file `DIR/NAME/KEY`, without one the environment
/// variable `MARGAY_SECRET_NAME_KEY`, without that what the datastore has.
pub(super) fn read(
    dir: &Path,
    stored: &StoredSecrets,
    password: &BgpPassword,
) -> Result<Secret, String> {
    let Some(reference) = &password.secret_key_ref else {
        return Err("password has no secretKeyRef".to_owned());
    };
    let plain = |part: &str| !part.is_empty() && !part.contains('/') && !part.starts_with('.');
    if !plain(&reference.name) || !plain(&reference.key) {
        return Err(format!(
            "password.secretKeyRef is {:?}/{:?}, both must be plain file names",
            reference.name, reference.key
        ));
    }
    let path = dir.join(&reference.name).join(&reference.key);
    match Secret::from_file(&path) {
        Err(SecretError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        read => return read.map_err(|error| error.to_string()),
    }
    let variable = variable(&reference.name, &reference.key);
    if let Ok(secret) = Secret::from_env(&variable) {
        return Ok(secret);
    }
    let name = format!("{}/{}", reference.name, reference.key);
    stored.known.get(&name).cloned().ok_or_else(|| {
        format!(
            "the password is neither in the file {}, nor in the environment as {variable}, nor in the \
             datastore at {}{name}",
            path.display(),
            stored.prefix
        )
    })
}

/// Letters and digits in upper case, all else as an underscore.
fn variable(name: &str, key: &str) -> String {
    let text = format!("MARGAY_SECRET_{name}_{key}");
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use margay_model::bgp_peer::SecretKeyRef;
    use margay_model::store::KeyValue;

    use super::*;

    fn named(name: &str, key: &str) -> BgpPassword {
        let reference = SecretKeyRef {
            name: name.to_owned(),
            key: key.to_owned(),
            ..SecretKeyRef::default()
        };
        BgpPassword {
            secret_key_ref: Some(reference),
            ..BgpPassword::default()
        }
    }

    fn value(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: value.into(),
            mod_revision: 1,
        }
    }

    #[test]
    fn a_file_comes_first_and_the_datastore_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut stored = StoredSecrets::new("/calico");
        let password = named("tor-keys", "rack1");
        let missing = read(dir.path(), &stored, &password).unwrap_err();
        for place in [
            "tor-keys/rack1,",
            "MARGAY_SECRET_TOR_KEYS_RACK1",
            "/calico/margay/v1/secrets/tor-keys/rack1",
        ] {
            assert!(missing.contains(place), "{missing}");
        }
        let key = "/calico/margay/v1/secrets/tor-keys/rack1";
        assert!(stored.hear(&SyncEvent::Apply(value(key, "stored\n"))));
        let found = |stored: &StoredSecrets| read(dir.path(), stored, &password);
        assert_eq!(found(&stored).unwrap().expose(), "stored");
        std::fs::create_dir(dir.path().join("tor-keys")).unwrap();
        std::fs::write(dir.path().join("tor-keys/rack1"), "hunter2\n").unwrap();
        assert_eq!(found(&stored).unwrap().expose(), "hunter2");
    }

    #[test]
    fn the_datastore_says_when_a_secret_changes_or_goes() {
        let mut stored = StoredSecrets::new("/c");
        let secret = |text: &str| value("/c/margay/v1/secrets/s/k", text);
        assert!(!stored.hear(&SyncEvent::Apply(value("/c/resources/v3/x", "{}"))));
        assert!(stored.hear(&SyncEvent::Apply(secret("one"))));
        assert!(!stored.hear(&SyncEvent::Apply(secret("one"))), "no news");
        assert!(stored.hear(&SyncEvent::Apply(secret("two"))));
        // A list that has it, and one that has it no more.
        for (has, changed) in [(true, false), (false, true)] {
            stored.hear(&SyncEvent::Init);
            if has {
                assert!(!stored.hear(&SyncEvent::InitApply(secret("two"))));
            }
            assert_eq!(stored.hear(&SyncEvent::InitDone { revision: 9 }), changed);
        }
        stored.hear(&SyncEvent::Apply(secret("three")));
        let key = "/c/margay/v1/secrets/s/k".to_owned();
        assert!(stored.hear(&SyncEvent::Delete { key, revision: 10 }));
        assert!(stored.known.is_empty());
        assert!(!format!("{stored:?}").contains("three"));
    }

    #[test]
    fn names_stay_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for (name, key) in [("..", "k"), ("a/b", "k"), ("s", ""), ("s", ".k")] {
            let error = read(dir.path(), &StoredSecrets::default(), &named(name, key)).unwrap_err();
            assert!(error.contains("plain file names"), "{error}");
        }
    }
}
