//! Which datastore to use: flags, environment, configuration file, in this order.

use std::io::Write;
use std::path::{Path, PathBuf};

use margay_datastore::{
    AnyStore, ConnectError, DatastoreConfig, DatastoreType, EnvError, Secret, SocketStore, connect,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

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

/// A setting that holds, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explained {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) source: String,
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
    /// Every setting, secrets left out.
    pub(crate) explained: Vec<Explained>,
    /// Certificates and a key that the configuration file itself holds.
    inline: Inline,
}

/// PEM texts in the place of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inline {
    ca_cert: Option<Secret>,
    cert: Option<Secret>,
    key: Option<Secret>,
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
    etcd_discovery_srv: Option<String>,
    etcd_username: Option<String>,
    etcd_password: Option<Secret>,
    etcd_key_file: Option<PathBuf>,
    etcd_cert_file: Option<PathBuf>,
    #[serde(rename = "etcdCACertFile")]
    etcd_ca_cert_file: Option<PathBuf>,
    etcd_key: Option<Secret>,
    etcd_cert: Option<Secret>,
    #[serde(rename = "etcdCACert")]
    etcd_ca_cert: Option<Secret>,
    socket: Option<PathBuf>,
    prefix: Option<String>,
    /// For another datastore; a file may have both.
    #[serde(flatten)]
    _kubernetes: Kubernetes,
}

/// What the established client knows of Kubernetes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Kubernetes {
    kubeconfig: IgnoredAny,
    #[serde(rename = "kubeconfigInline")]
    kubeconfig_inline: IgnoredAny,
    #[serde(rename = "k8sAPIEndpoint")]
    api_endpoint: IgnoredAny,
    #[serde(rename = "k8sKeyFile")]
    key_file: IgnoredAny,
    #[serde(rename = "k8sCertFile")]
    cert_file: IgnoredAny,
    #[serde(rename = "k8sCAFile")]
    ca_file: IgnoredAny,
    #[serde(rename = "k8sAPIToken")]
    api_token: IgnoredAny,
    #[serde(rename = "k8sInsecureSkipTLSVerify")]
    insecure: IgnoredAny,
    #[serde(rename = "k8sDisableNodePoll")]
    disable_node_poll: IgnoredAny,
    #[serde(rename = "usePodCIDR")]
    use_pod_cidr: IgnoredAny,
    #[serde(rename = "k8sClientQPS")]
    client_qps: IgnoredAny,
    #[serde(rename = "k8sCurrentContext")]
    current_context: IgnoredAny,
    #[serde(rename = "calicoAPIGroup")]
    api_group: IgnoredAny,
}

/// Names of a setting in the environment, the one that wins first.
fn variables(name: &str) -> [String; 3] {
    [
        format!("MARGAY_{name}"),
        format!("CALICO_{name}"),
        name.to_owned(),
    ]
}

impl Config {
    /// Reads the configuration. `lookup` finds environment variables.
    pub(crate) fn load(
        flags: &Flags<'_>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        // These have names that mean something else without ours before them.
        let own = |name: &str| set(&format!("MARGAY_{name}"));
        let file = load_file(flags.file, own("CONFIG").map(PathBuf::from))?;
        let mut store = DatastoreConfig {
            endpoints: Vec::new(),
            ..DatastoreConfig::default()
        };
        file.fill(&mut store)?;
        // Ours wins over the established prefix, which wins over the bare name.
        store.apply_env(|name| {
            let bare = name.strip_prefix("CALICO_").unwrap_or(name);
            set(&format!("MARGAY_{bare}")).or_else(|| set(name))
        })?;
        if let Some(prefix) = own("PREFIX") {
            store.prefix = prefix;
        }
        let named = flags.socket.map(Path::to_owned);
        let nowhere = store.endpoints.is_empty() && store.discovery_srv.is_none();
        let by_socket = named.is_some() || store.kind == DatastoreType::Embedded || nowhere;
        let socket = named
            .or_else(|| own("SOCKET").map(PathBuf::from))
            .or_else(|| file.1.socket.clone())
            .unwrap_or_else(|| PathBuf::from(margay_api::DEFAULT_SOCKET));
        let mut config = Self {
            socket,
            prefix: store.prefix.clone(),
            explained: Vec::new(),
            inline: file.inline(&store),
            etcd: (!by_socket).then(|| store.clone()),
        };
        config.explained = explain(&config, flags, &file, &store, &set);
        Ok(config)
    }

    /// The datastore. One that is down is no error yet: requests say so.
    pub(crate) fn connect(&self) -> Result<AnyStore, ConfigError> {
        let Some(config) = &self.etcd else {
            return Ok(AnyStore::Socket(SocketStore::new(&self.socket)));
        };
        // The driver reads files. Theirs are seen by nobody else, and are gone when it has read them.
        let mut config = config.clone();
        let mut files = Vec::new();
        let Inline { ca_cert, cert, key } = &self.inline;
        for (text, path) in [
            (ca_cert, &mut config.ca_cert_file),
            (cert, &mut config.cert_file),
            (key, &mut config.key_file),
        ] {
            let Some(text) = text else { continue };
            let unwritable = |source| ConfigError::Unreadable {
                path: std::env::temp_dir(),
                source,
            };
            let mut file = tempfile::NamedTempFile::new().map_err(unwritable)?;
            file.write_all(text.reveal().as_bytes())
                .map_err(unwritable)?;
            *path = Some(file.path().to_owned());
            files.push(file);
        }
        Ok(connect(&config)?)
    }
}

/// Every setting, and where it comes from.
fn explain(
    config: &Config,
    flags: &Flags<'_>,
    Loaded(path, spec): &Loaded,
    store: &DatastoreConfig,
    set: &impl Fn(&str) -> Option<String>,
) -> Vec<Explained> {
    let source = |names: &[String], in_file: bool| {
        let variable = names.iter().find(|name| set(name).is_some());
        match (variable, in_file) {
            (Some(name), _) => format!("environment {name}"),
            (None, true) => format!("file {}", path.display()),
            (None, false) => "default".to_owned(),
        }
    };
    let own = |name: &str| [format!("MARGAY_{name}")];
    let mut explained = Vec::new();
    let mut push = |name: &str, value: String, source: String| {
        explained.push(Explained {
            name: name.to_owned(),
            value,
            source,
        });
    };
    let flagged = |flag: &str| format!("flag {flag}");
    let by_flag = flags.file.map(|_| flagged("--config"));
    let by_variable = set("MARGAY_CONFIG").map(|_| "environment MARGAY_CONFIG".to_owned());
    let found = by_flag
        .or(by_variable)
        .unwrap_or_else(|| "default".to_owned());
    push("configFile", path.display().to_string(), found);
    let (used, why) = match (&config.etcd, flags.socket) {
        (Some(_), _) if store.discovery_srv.is_some() => ("etcd", "etcdDiscoverySrv is set"),
        (Some(_), _) => ("etcd", "etcdEndpoints are set"),
        (None, Some(_)) => ("the agent's", "flag --socket"),
        (None, None) if store.kind == DatastoreType::Embedded => {
            ("the agent's", "datastoreType is embedded")
        }
        (None, None) => ("the agent's", "no etcdEndpoints are set"),
    };
    push("datastore", used.to_owned(), why.to_owned());
    let socket = match flags.socket {
        Some(_) => flagged("--socket"),
        None => source(&own("SOCKET"), spec.socket.is_some()),
    };
    push("socket", config.socket.display().to_string(), socket);
    push(
        "prefix",
        config.prefix.clone(),
        source(&own("PREFIX"), spec.prefix.is_some()),
    );
    let kind = match store.kind {
        DatastoreType::Embedded => "embedded",
        DatastoreType::Etcdv3 => "etcdv3",
    };
    let variable = |name: &str| variables(name);
    push(
        "datastoreType",
        kind.to_owned(),
        source(&variable("DATASTORE_TYPE"), spec.datastore_type.is_some()),
    );
    let endpoints = source(&variable("ETCD_ENDPOINTS"), spec.etcd_endpoints.is_some());
    push("etcdEndpoints", store.endpoints.join(","), endpoints);
    let discovery = source(
        &variable("ETCD_DISCOVERY_SRV"),
        spec.etcd_discovery_srv.is_some(),
    );
    push(
        "etcdDiscoverySrv",
        store.discovery_srv.clone().unwrap_or_default(),
        discovery,
    );
    let user = source(&variable("ETCD_USERNAME"), spec.etcd_username.is_some());
    push(
        "etcdUsername",
        store.username.clone().unwrap_or_default(),
        user,
    );
    let secret = |secret: &Option<Secret>| secret.as_ref().map_or("", |_| "(set)").to_owned();
    let password = source(&variable("ETCD_PASSWORD"), spec.etcd_password.is_some());
    push("etcdPassword", secret(&store.password), password);
    push(
        "etcdRequestTimeoutMs",
        store.request_timeout_ms.to_string(),
        source(&variable("ETCD_REQUEST_TIMEOUT_MS"), false),
    );
    let inline = &config.inline;
    for (name, file, text, in_file, names) in [
        (
            "etcdCACertFile",
            &store.ca_cert_file,
            &inline.ca_cert,
            spec.etcd_ca_cert_file.is_some(),
            "ETCD_CA_CERT_FILE",
        ),
        (
            "etcdCertFile",
            &store.cert_file,
            &inline.cert,
            spec.etcd_cert_file.is_some(),
            "ETCD_CERT_FILE",
        ),
        (
            "etcdKeyFile",
            &store.key_file,
            &inline.key,
            spec.etcd_key_file.is_some(),
            "ETCD_KEY_FILE",
        ),
    ] {
        let shown = file
            .as_ref()
            .map(|file| file.display().to_string())
            .unwrap_or_default();
        let shown = if text.is_some() {
            "(in the configuration file)".to_owned()
        } else {
            shown
        };
        push(
            name,
            shown,
            source(&variables(names), in_file || text.is_some()),
        );
    }
    explained
}

/// A file's settings and where they are from.
struct Loaded(PathBuf, FileSpec);

fn load_file(named: Option<&Path>, other: Option<PathBuf>) -> Result<Loaded, ConfigError> {
    let named = named.map(Path::to_owned).or(other);
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
    /// Texts that stand in the place of files; what names a file wins.
    fn inline(&self, store: &DatastoreConfig) -> Inline {
        let Self(_, spec) = self;
        let unless = |file: &Option<PathBuf>, text: &Option<Secret>| match file {
            None => text.clone(),
            Some(_) => None,
        };
        Inline {
            ca_cert: unless(&store.ca_cert_file, &spec.etcd_ca_cert),
            cert: unless(&store.cert_file, &spec.etcd_cert),
            key: unless(&store.key_file, &spec.etcd_key),
        }
    }

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
        store.discovery_srv.clone_from(&spec.etcd_discovery_srv);
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
            ("MARGAY_ETCD_REQUEST_TIMEOUT_MS", "20000"),
            ("MARGAY_PREFIX", "/lab"),
        ];
        let config = load(Some(FILE), None, &env).unwrap();
        let etcd = config.etcd.unwrap();
        assert_eq!(etcd.request_timeout_ms, 20_000);
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
    fn bare_names_that_mean_something_else_are_left_alone() {
        let env = [
            ("PREFIX", "/usr/local"),
            ("SOCKET", "/x"),
            ("CONFIG", "/does/not/exist"),
        ];
        let config = load(None, None, &env).unwrap();
        assert_eq!(config.prefix, "/calico");
        assert_eq!(config.socket, Path::new(margay_api::DEFAULT_SOCKET));
    }

    #[test]
    fn a_file_may_have_settings_for_kubernetes_and_certificates_of_its_own() {
        let text = "spec: {datastoreType: etcdv3, etcdEndpoints: 'http://a:1', kubeconfig: /k, \
                    k8sClientQPS: 50, etcdKey: KEY, etcdCert: CERT, etcdCACert: CA, etcdCertFile: /c}";
        let config = load(Some(text), None, &[]).unwrap();
        let texts = [
            &config.inline.ca_cert,
            &config.inline.cert,
            &config.inline.key,
        ];
        let texts = texts.map(|text| text.as_ref().map(Secret::reveal));
        assert_eq!(texts, [Some("CA"), None, Some("KEY")]);
        let config = load(Some("spec: {etcdDiscoverySrv: x.example}"), None, &[]).unwrap();
        let domain = config.etcd.and_then(|etcd| etcd.discovery_srv);
        assert_eq!(domain.as_deref(), Some("x.example"));
    }

    #[test]
    fn each_setting_tells_where_it_comes_from() {
        let env = [
            ("CALICO_ETCD_USERNAME", "ann"),
            ("MARGAY_PREFIX", "/lab"),
            ("ETCD_USERNAME", "x"),
        ];
        let config = load(Some(FILE), None, &env).unwrap();
        let of = |name: &str| {
            let found = config
                .explained
                .iter()
                .find(|setting| setting.name == name)
                .unwrap();
            let source = found
                .source
                .split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" ");
            (
                found.value.clone(),
                source.split(" /").next().unwrap_or_default().to_owned(),
            )
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of("datastore"), pair("etcd", "etcdEndpoints are"));
        assert_eq!(
            of("etcdUsername"),
            pair("ann", "environment CALICO_ETCD_USERNAME")
        );
        assert_eq!(of("prefix"), pair("/lab", "environment MARGAY_PREFIX"));
        assert_eq!(of("etcdPassword"), pair("(set)", "file"));
        assert_eq!(of("etcdCACertFile"), pair("/ca.pem", "file"));
        assert_eq!(of("etcdKeyFile"), pair("", "default"));
        assert_eq!(of("configFile").1, "flag --config");
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
