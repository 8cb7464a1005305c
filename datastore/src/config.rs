//! Where the datastore is and how to get in.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The kind of datastore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatastoreType {
    /// An etcd cluster, v3 API.
    #[default]
    Etcdv3,
    /// A file on this host; no other host can share it.
    Embedded,
}

/// Plain data; `connect` makes a store of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatastoreConfig {
    /// `etcdv3` or `embedded`.
    #[serde(rename = "type")]
    pub kind: DatastoreType,
    /// etcd: client URLs, tried in this order.
    pub endpoints: Vec<String>,
    /// etcd: the domain whose SRV records name the endpoints, instead of `endpoints`.
    pub discovery_srv: Option<String>,
    /// etcd: PEM file of the authorities that sign the servers' certificates; the system's if unset.
    pub ca_cert_file: Option<PathBuf>,
    /// etcd: PEM file of the client certificate. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// etcd: PEM file of the client certificate's key.
    pub key_file: Option<PathBuf>,
    /// etcd: user name. Needs `password`.
    pub username: Option<String>,
    /// etcd: password.
    pub password: Option<Secret>,
    /// etcd: how long one request may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// embedded: the store file.
    pub path: PathBuf,
    /// What all keys start with.
    pub prefix: String,
}

impl Default for DatastoreConfig {
    fn default() -> Self {
        Self {
            kind: DatastoreType::Etcdv3,
            endpoints: vec!["http://127.0.0.1:2379".into()],
            discovery_srv: None,
            ca_cert_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password: None,
            request_timeout_ms: 5000,
            path: PathBuf::from("/var/lib/margay/store.redb"),
            prefix: "/calico".into(),
        }
    }
}

/// An environment variable with an impossible value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable} is {value:?}, allowed {allowed}")]
pub struct EnvError {
    /// The variable.
    pub variable: String,
    /// What it says.
    pub value: String,
    /// What it may say, in words.
    pub allowed: &'static str,
}

impl DatastoreConfig {
    /// Lets the environment override the fields: `DATASTORE_TYPE`, `ETCD_ENDPOINTS` (comma-separated),
    /// `ETCD_DISCOVERY_SRV`, `ETCD_CA_CERT_FILE`, `ETCD_CERT_FILE`, `ETCD_KEY_FILE`, `ETCD_USERNAME`,
    /// `ETCD_PASSWORD`, `ETCD_REQUEST_TIMEOUT_MS`; each also with `CALICO_` before it, which then wins. Empty variables
    /// count as unset.
    ///
    /// `lookup` is `|name| std::env::var(name).ok()` outside tests.
    pub fn apply_env(&mut self, lookup: impl Fn(&str) -> Option<String>) -> Result<(), EnvError> {
        let find = |name: &str| {
            [format!("CALICO_{name}"), name.to_owned()]
                .into_iter()
                .find_map(|n| Some((lookup(&n).filter(|v| !v.is_empty())?, n)))
        };
        let text = |name: &str| find(name).map(|(value, _)| value);
        if let Some((value, variable)) = find("DATASTORE_TYPE") {
            self.kind = match value.as_str() {
                "etcdv3" => DatastoreType::Etcdv3,
                "embedded" => DatastoreType::Embedded,
                _ => {
                    return Err(EnvError {
                        variable,
                        value,
                        allowed: "are etcdv3 and embedded",
                    });
                }
            };
        }
        if let Some(list) = text("ETCD_ENDPOINTS") {
            self.endpoints = list
                .split(',')
                .map(|e| e.trim().to_owned())
                .filter(|e| !e.is_empty())
                .collect();
            // What the environment names wins over a domain in the file.
            self.discovery_srv = None;
        }
        if let Some(domain) = text("ETCD_DISCOVERY_SRV") {
            self.discovery_srv = Some(domain);
        }
        let file = |name: &str, field: &mut Option<PathBuf>| {
            if let Some(path) = text(name) {
                *field = Some(PathBuf::from(path));
            }
        };
        file("ETCD_CA_CERT_FILE", &mut self.ca_cert_file);
        file("ETCD_CERT_FILE", &mut self.cert_file);
        file("ETCD_KEY_FILE", &mut self.key_file);
        if let Some(name) = text("ETCD_USERNAME") {
            self.username = Some(name);
        }
        if let Some(password) = text("ETCD_PASSWORD") {
            self.password = Some(Secret::new(password));
        }
        if let Some((value, variable)) = find("ETCD_REQUEST_TIMEOUT_MS") {
            self.request_timeout_ms = match value.parse() {
                Ok(millis) if millis > 0 => millis,
                _ => {
                    return Err(EnvError {
                        variable,
                        value,
                        allowed: "is a number of milliseconds above 0",
                    });
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(env: &[(&str, &str)]) -> Result<DatastoreConfig, EnvError> {
        let mut config = DatastoreConfig::default();
        config.apply_env(|name| {
            let found = env.iter().find(|(n, _)| *n == name)?;
            Some(found.1.to_owned())
        })?;
        Ok(config)
    }

    #[test]
    fn defaults_are_these() {
        let printed = serde_json::to_string(&DatastoreConfig::default()).unwrap();
        assert_eq!(
            printed,
            r#"{"type":"etcdv3","endpoints":["http://127.0.0.1:2379"],"discovery_srv":null,"ca_cert_file":null,"cert_file":null,"key_file":null,"username":null,"password":null,"request_timeout_ms":5000,"path":"/var/lib/margay/store.redb","prefix":"/calico"}"#
        );
    }

    #[test]
    fn environment_overrides_and_the_prefixed_name_wins() {
        let config = from(&[
            ("ETCD_ENDPOINTS", "https://a:2379, https://b:2379,"),
            ("ETCD_USERNAME", "plain"),
            ("CALICO_ETCD_USERNAME", "prefixed"),
            ("ETCD_CA_CERT_FILE", "/ca.pem"),
            ("ETCD_KEY_FILE", ""),
            ("ETCD_DISCOVERY_SRV", "example.com"),
            ("ETCD_REQUEST_TIMEOUT_MS", "60000"),
        ])
        .unwrap();
        assert_eq!(config.endpoints, ["https://a:2379", "https://b:2379"]);
        assert_eq!(config.username.as_deref(), Some("prefixed"));
        assert_eq!(config.ca_cert_file, Some("/ca.pem".into()));
        assert_eq!(config.key_file, None);
        assert_eq!(config.discovery_srv.as_deref(), Some("example.com"));
        assert_eq!(config.request_timeout_ms, 60_000);
    }

    #[test]
    fn endpoints_of_the_environment_win_over_a_domain_in_the_file() {
        let mut config = DatastoreConfig {
            discovery_srv: Some("example.com".into()),
            ..DatastoreConfig::default()
        };
        let endpoints = |name: &str| (name == "ETCD_ENDPOINTS").then(|| "http://a:1".to_owned());
        config.apply_env(endpoints).unwrap();
        assert_eq!(config.discovery_srv, None);
    }

    #[test]
    fn unknown_type_is_refused_by_name() {
        let refused = from(&[("DATASTORE_TYPE", "kubernetes")]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            r#"DATASTORE_TYPE is "kubernetes", allowed are etcdv3 and embedded"#
        );
    }

    #[test]
    fn a_limit_that_is_none_is_refused_by_name() {
        for value in ["0", "-1", "5s"] {
            let refused = from(&[("CALICO_ETCD_REQUEST_TIMEOUT_MS", value)]).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!(
                    "CALICO_ETCD_REQUEST_TIMEOUT_MS is {value:?}, allowed is a number of milliseconds above 0"
                )
            );
        }
    }

    #[test]
    fn password_is_never_printed() {
        let config = from(&[("ETCD_PASSWORD", "hush")]).unwrap();
        assert_eq!(config.password.as_ref().unwrap().reveal(), "hush");
        assert!(!format!("{config:?}").contains("hush"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hush"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<DatastoreConfig>(r#"{"endpoint":"x"}"#).is_err());
    }
}
