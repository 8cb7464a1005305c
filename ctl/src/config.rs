//! Which datastore to use: flags, environment, configuration file, in this order.

use std::path::{Path, PathBuf};

use margay_datastore::{
    AnyStore, ConnectError, DatastoreConfig, DatastoreType, EnvError, Secret, SocketStore, connect,
};
use serde::Deserialize;

/// Read when no file is named; the first that exists.
const DEFAULT_FILES: [&str; 2] = ["/etc/margay/margayctl.cfg", "/etc/calico/calicoctl.cfg"];

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    /// A variable has an impossible value.
    #[error(transparent)]
    Environment(#[from] EnvError),
    /// The settings make no store.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Flags<'a> {
    pub(crate) file: Option<&'a Path>,
    pub(crate) socket: Option<&'a Path>,
}

/// Where datastore and agent are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The agent's socket.
    pub(crate) socket: PathBuf,
    /// The etcd cluster; the datastore behind the socket if absent.
    pub(crate) etcd: Option<DatastoreConfig>,
    /// What all keys start with.
    pub(crate) prefix: String,
}

/// A configuration file, in the form of the established client.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    spec: Option<FileSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileSpec {
    datastore_type: Option<String>,
    etcd_endpoints: Option<String>,
    etcd_username: Option<String>,
    etcd_password: Option<Secret>,
    etcd_key_file: Option<PathBuf>,
    etcd_cert_file: Option<PathBuf>,
    #[serde(rename = "etcdCACertFile")]
    etcd_ca_cert_file: Option<PathBuf>,
    socket: Option<PathBuf>,
    prefix: Option<String>,
}

impl Config {
    /// Reads the configuration. `lookup` finds environment variables.
    pub(crate) fn load(
        flags: &Flags<'_>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        // Ours wins over the established prefix, which wins over the bare name.
        let lookup = |name: &str| {
            let bare = name.strip_prefix("CALICO_").unwrap_or(name);
            let ours = lookup(&format!("MARGAY_{bare}")).filter(|value| !value.is_empty());
            ours.or_else(|| lookup(name))
                .filter(|value| !value.is_empty())
        };
        let file = load_file(flags.file, &lookup)?;
        let mut store = DatastoreConfig {
            endpoints: Vec::new(),
            ..DatastoreConfig::default()
        };
        file.fill(&mut store)?;
        store.apply_env(lookup)?;
        if let Some(prefix) = lookup("PREFIX") {
            store.prefix = prefix;
        }
        let named = flags.socket.map(Path::to_owned);
        let by_socket =
            named.is_some() || store.kind == DatastoreType::Embedded || store.endpoints.is_empty();
        let socket = named
            .or_else(|| lookup("SOCKET").map(PathBuf::from))
            .or(file.1.socket)
            .unwrap_or_else(|| PathBuf::from(margay_api::DEFAULT_SOCKET));
        let prefix = store.prefix.clone();
        Ok(Self {
            socket,
            etcd: (!by_socket).then_some(store),
            prefix,
        })
    }

    /// The datastore. One that is down is no error yet: requests say so.
    pub(crate) fn connect(&self) -> Result<AnyStore, ConfigError> {
        match &self.etcd {
            Some(config) => Ok(connect(config)?),
            None => Ok(AnyStore::Socket(SocketStore::new(&self.socket))),
        }
    }
}

/// A file's settings and where they are from.
struct Loaded(PathBuf, FileSpec);

fn load_file(
    named: Option<&Path>,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigError> {
    let named = named
        .map(Path::to_owned)
        .or_else(|| lookup("CONFIG").map(PathBuf::from));
    let existing = || {
        DEFAULT_FILES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
    };
    let Some(path) = named.or_else(existing) else {
        return Ok(Loaded(PathBuf::new(), FileSpec::default()));
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ConfigError::Unreadable { path, source }),
    };
    match serde_norway::from_str::<File>(&text) {
        Ok(file) => Ok(Loaded(path, file.spec.unwrap_or_default())),
        Err(error) => Err(ConfigError::Invalid {
            path,
            reason: error.to_string(),
        }),
    }
}

impl Loaded {
    fn fill(&self, store: &mut DatastoreConfig) -> Result<(), ConfigError> {
        let Self(path, spec) = self;
        match spec.datastore_type.as_deref() {
            None | Some("" | "etcdv3") => {}
            Some("embedded") => store.kind = DatastoreType::Embedded,
            Some(other) => {
                let reason =
                    format!("spec.datastoreType: found \"{other}\", allowed: etcdv3, embedded");
                return Err(ConfigError::Invalid {
                    path: path.clone(),
                    reason,
                });
            }
        }
        if let Some(list) = &spec.etcd_endpoints {
            let endpoints = list.split(',').map(|endpoint| endpoint.trim().to_owned());
            store.endpoints = endpoints.filter(|endpoint| !endpoint.is_empty()).collect();
        }
        store.username.clone_from(&spec.etcd_username);
        store.password.clone_from(&spec.etcd_password);
        store.key_file.clone_from(&spec.etcd_key_file);
        store.cert_file.clone_from(&spec.etcd_cert_file);
        store.ca_cert_file.clone_from(&spec.etcd_ca_cert_file);
        if let Some(prefix) = &spec.prefix {
            store.prefix.clone_from(prefix);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: Option<&str>,
        socket: Option<&str>,
        env: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctl.cfg");
        // An empty file keeps the test away from the files of the host.
        std::fs::write(&path, file.unwrap_or("{}")).unwrap();
        let flags = Flags {
            file: Some(&path),
            socket: socket.map(Path::new),
        };
        Config::load(&flags, |name| {
            let found = env.iter().find(|(variable, _)| *variable == name)?;
            Some(found.1.to_owned())
        })
    }

    const FILE: &str = "
apiVersion: projectcalico.org/v3
kind: CalicoAPIConfig
metadata:
spec:
  datastoreType: etcdv3
  etcdEndpoints: https://a:2379, https://b:2379
  etcdCACertFile: /ca.pem
  etcdUsername: joe
  etcdPassword: hush
";

    #[test]
    fn without_an_endpoint_the_agent_is_asked() {
        let config = load(None, None, &[]).unwrap();
        assert_eq!(config.etcd, None);
        assert_eq!(config.socket, Path::new("/run/margay/margayd.sock"));
        assert_eq!(config.prefix, "/calico");
        let config = load(None, None, &[("MARGAY_SOCKET", "/a.sock")]).unwrap();
        assert_eq!(config.socket, Path::new("/a.sock"));
    }

    #[test]
    fn the_established_file_is_read_and_the_environment_wins() {
        let etcd = load(Some(FILE), None, &[]).unwrap().etcd.unwrap();
        assert_eq!(etcd.endpoints, ["https://a:2379", "https://b:2379"]);
        assert_eq!(etcd.ca_cert_file, Some("/ca.pem".into()));
        assert_eq!(etcd.password.unwrap().reveal(), "hush");
        let env = [
            ("ETCD_ENDPOINTS", "http://c:1"),
            ("CALICO_ETCD_ENDPOINTS", "http://d:1"),
            ("MARGAY_ETCD_ENDPOINTS", "http://e:1"),
            ("ETCD_USERNAME", "ann"),
            ("MARGAY_PREFIX", "/lab"),
        ];
        let config = load(Some(FILE), None, &env).unwrap();
        let etcd = config.etcd.unwrap();
        assert_eq!(etcd.endpoints, ["http://e:1"]);
        assert_eq!(etcd.username.as_deref(), Some("ann"));
        assert_eq!(config.prefix, "/lab");
    }

    #[test]
    fn a_socket_on_the_command_line_wins_over_etcd() {
        let config = load(Some(FILE), Some("/b.sock"), &[]).unwrap();
        assert_eq!((config.etcd, config.socket), (None, "/b.sock".into()));
    }

    #[test]
    fn what_a_file_cannot_say_is_refused_by_name() {
        let error = |text| load(Some(text), None, &[]).unwrap_err().to_string();
        let found = error("spec: {datastoreType: kubernetes}");
        assert!(
            found.ends_with("spec.datastoreType: found \"kubernetes\", allowed: etcdv3, embedded"),
            "{found}"
        );
        assert!(error("spec: {etcdEndpoint: x}").contains("unknown field `etcdEndpoint`"));
        let error = load(None, None, &[("DATASTORE_TYPE", "kubernetes")]).unwrap_err();
        assert!(
            error.to_string().starts_with("DATASTORE_TYPE is"),
            "{error}"
        );
    }
}
