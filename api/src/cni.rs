//! The CNI verbs as the shim forwards them, and what shim and agent both must know of the protocol:
//! supported versions, error objects, the checks of environment and configuration header.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Spec versions that ADD can answer in, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A configuration without `cniVersion` counts as this one.
const VERSION_WHEN_ABSENT: &str = "0.1.0";

/// A CNI call as the runtime made it: the environment and the configuration, not interpreted.
///
/// The same value, as one JSON file, is the journal entry of a DEL while the agent was down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniRequest {
    /// `CNI_COMMAND`: ADD, DEL, CHECK, GC or STATUS (VERSION is answered by the shim itself).
    pub command: String,
    /// `CNI_CONTAINERID`; empty when unset.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`; empty when unset, which is legal for DEL.
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`; empty when unset.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_ARGS`; empty when unset.
    #[serde(default)]
    pub args: String,
    /// `CNI_PATH`; empty when unset.
    #[serde(default)]
    pub path: String,
    /// Standard input as it came: the plugin's JSON configuration.
    pub config: String,
}

/// The answer to a [`CniRequest`]: what the shim prints and how it exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniReply {
    /// Exit status of the shim: 0 or 1.
    pub exit: u8,
    /// For standard output: a CNI result, a CNI error, or nothing.
    pub stdout: String,
}

impl CniReply {
    /// Success that prints nothing, as DEL and CHECK want it.
    pub fn done() -> Self {
        Self {
            exit: 0,
            stdout: String::new(),
        }
    }

    /// Success that prints a result.
    pub fn result(result: &Value) -> Self {
        Self {
            exit: 0,
            stdout: result.to_string(),
        }
    }
}

/// A CNI error object (spec section "Error"); codes below 100 are the spec's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// One of [`code`], or 100 and above for our own.
    pub code: u32,
    /// The short message.
    pub msg: String,
    /// More words; may be empty.
    pub details: String,
}

/// Error codes of the spec.
pub mod code {
    /// The configuration's `cniVersion` is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration has a value we do not support.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO_FAILURE: u32 = 5;
    /// The configuration is no JSON object of the right types.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration decodes but is not valid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is missing or is the host's own.
    pub const INVALID_NETNS: u32 = 8;
    /// A transient condition: the same call may succeed later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the same, and containers that run may be cut off.
    pub const LIMITED: u32 = 51;
    /// Ours: the kernel refused what an attachment needs.
    pub const ATTACH_FAILED: u32 = 100;
    /// Ours: no address could be had.
    pub const NO_ADDRESS: u32 = 101;
    /// Ours: CHECK found a difference.
    pub const CHECK_FAILED: u32 = 102;
    /// Ours: a port of the host that is asked for leads to another container.
    pub const HOST_PORT_TAKEN: u32 = 103;
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The error object on standard output, exit status 1.
    pub fn reply(&self, cni_version: &str) -> CniReply {
        let mut object = json!({"cniVersion": cni_version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            object["details"] = Value::from(self.details.as_str());
        }
        CniReply {
            exit: 1,
            stdout: object.to_string(),
        }
    }
}

/// What shim and agent need of a configuration before they know the verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `cniVersion`, "0.1.0" when absent.
    pub cni_version: String,
    /// `name` of the network.
    pub name: String,
    /// Our key `socket`: the agent's socket, when it is not the default.
    pub socket: Option<String>,
    /// Our key `journal`: the folder for DELs that the agent could not take.
    pub journal: Option<String>,
}

impl Header {
    /// Makes sure that the configuration's version has the verb: CHECK came with 0.4.0, GC and STATUS with 1.1.0.
    ///
    /// # Errors
    /// Code 1.
    pub fn allows(&self, command: &str) -> Result<(), CniError> {
        let since = match command {
            "CHECK" => "0.4.0",
            "GC" | "STATUS" => "1.1.0",
            _ => return Ok(()),
        };
        let age = |version: &str| SUPPORTED_VERSIONS.iter().position(|v| *v == version);
        if age(&self.cni_version) >= age(since) {
            return Ok(());
        }
        let msg = format!(
            "{command} came with cniVersion {}, it exists since {since}",
            self.cni_version
        );
        Err(CniError::new(code::INCOMPATIBLE_VERSION, msg))
    }

    /// Reads the header of a configuration.
    ///
    /// # Errors
    /// Code 6 when it is no JSON object or a key has the wrong type, 7 when `name` is missing or has
    /// characters that the spec does not allow, 1 when the version is not supported. The version to
    /// answer in comes along, as far as it could be read.
    pub fn parse(config: &str) -> Result<Self, (String, CniError)> {
        let newest = || SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1].to_owned();
        let value: Value = serde_json::from_str(config).map_err(|e| {
            let error = CniError::new(code::DECODING_FAILURE, "network configuration is not JSON");
            (newest(), error.with_details(e.to_string()))
        })?;
        let text = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err((
                newest(),
                CniError::new(
                    code::DECODING_FAILURE,
                    format!("network configuration: {key} is {other}, must be a string"),
                ),
            )),
        };
        if !value.is_object() {
            let error = CniError::new(
                code::DECODING_FAILURE,
                "network configuration is no JSON object",
            );
            return Err((newest(), error));
        }
        let cni_version = text("cniVersion")?.unwrap_or_else(|| VERSION_WHEN_ABSENT.to_owned());
        let name = text("name")?.unwrap_or_default();
        if !is_identifier(&name) {
            let msg = format!(
                "network configuration: name is {name:?}, must start with a letter or digit and \
                 hold only letters, digits, '_', '.' and '-'"
            );
            return Err((cni_version, CniError::new(code::INVALID_CONFIG, msg)));
        }
        if !SUPPORTED_VERSIONS.contains(&cni_version.as_str()) {
            let error = CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
                .with_details(format!(
                    "config is {cni_version:?}, plugin supports {SUPPORTED_VERSIONS:?}"
                ));
            return Err((cni_version, error));
        }
        Ok(Self {
            cni_version,
            name,
            socket: text("socket")?,
            journal: text("journal")?,
        })
    }
}

impl CniRequest {
    /// Checks the environment of the call: every missing variable is named in one message.
    ///
    /// # Errors
    /// Code 4.
    pub fn check_environment(&self) -> Result<(), CniError> {
        let invalid = |msg: String| Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
        let (needs_netns, needs_container) = match self.command.as_str() {
            "ADD" | "CHECK" => (true, true),
            "DEL" => (false, true),
            "GC" | "STATUS" => (false, false),
            other => {
                return invalid(format!(
                    "CNI_COMMAND is {other:?}, must be ADD, DEL, CHECK, GC, STATUS or VERSION"
                ));
            }
        };
        let required = [
            ("CNI_CONTAINERID", needs_container, &self.container_id),
            ("CNI_NETNS", needs_netns, &self.netns),
            ("CNI_IFNAME", needs_container, &self.ifname),
        ];
        let missing: Vec<&str> = required
            .iter()
            .filter(|(_, needed, value)| *needed && value.is_empty())
            .map(|(name, _, _)| *name)
            .collect();
        if !missing.is_empty() {
            return invalid(format!(
                "required env variables [{}] missing",
                missing.join(",")
            ));
        }
        if needs_container && !is_identifier(&self.container_id) {
            return invalid(format!(
                "CNI_CONTAINERID is {:?}, must start with a letter or digit and hold only letters, \
                 digits, '_', '.' and '-'",
                self.container_id
            ));
        }
        if needs_container && !is_interface_name(&self.ifname) {
            return invalid(format!(
                "CNI_IFNAME is {:?}, must be 1 to 15 characters without '/', ':' or space, and not \
                 '.' or '..'",
                self.ifname
            ));
        }
        Ok(())
    }

    /// The file name of this call in the journal: one a container and interface.
    pub fn journal_file(&self) -> String {
        format!("{}-{}.json", self.container_id, self.ifname)
    }
}

/// The answer to VERSION, whatever was on standard input.
pub fn version_reply(config: &str) -> CniReply {
    let asked = serde_json::from_str::<Value>(config)
        .ok()
        .and_then(|v| {
            v.get("cniVersion")
                .and_then(Value::as_str)
                .map(str::to_owned)
        })
        .unwrap_or_else(|| SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1].to_owned());
    CniReply::result(&json!({"cniVersion": asked, "supportedVersions": SUPPORTED_VERSIONS}))
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, the spec's rule for network names and container ids.
fn is_identifier(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_interface_name(s: &str) -> bool {
    (1..=15).contains(&s.len())
        && s != "."
        && s != ".."
        && !s.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add() -> CniRequest {
        CniRequest {
            command: "ADD".into(),
            container_id: "c1".into(),
            netns: "/run/netns/c1".into(),
            ifname: "eth0".into(),
            ..CniRequest::default()
        }
    }

    #[test]
    fn all_missing_variables_are_named_at_once() {
        let request = CniRequest {
            command: "ADD".into(),
            ..CniRequest::default()
        };
        let error = request.check_environment().unwrap_err();
        assert_eq!(error.code, 4);
        assert_eq!(
            error.msg,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"
        );
    }

    #[test]
    fn del_needs_no_netns() {
        let request = CniRequest {
            command: "DEL".into(),
            netns: String::new(),
            ..add()
        };
        assert_eq!(request.check_environment(), Ok(()));
    }

    #[test]
    fn odd_names_are_refused_with_what_is_allowed() {
        for (id, ifname) in [
            ("../x", "eth0"),
            ("-c", "eth0"),
            ("c1", "a/b"),
            ("c1", ".."),
        ] {
            let request = CniRequest {
                container_id: id.into(),
                ifname: ifname.into(),
                ..add()
            };
            let error = request.check_environment().unwrap_err();
            assert_eq!(error.code, 4, "{id} {ifname}");
            assert!(error.msg.contains("must"), "{}", error.msg);
        }
    }

    #[test]
    fn header_errors_carry_the_codes_of_the_spec() {
        let code_of = |config: &str| Header::parse(config).unwrap_err().1.code;
        assert_eq!(code_of("not json"), code::DECODING_FAILURE);
        assert_eq!(code_of("[1]"), code::DECODING_FAILURE);
        assert_eq!(
            code_of(r#"{"cniVersion": 1, "name": "n"}"#),
            code::DECODING_FAILURE
        );
        assert_eq!(code_of(r#"{"cniVersion": "1.0.0"}"#), code::INVALID_CONFIG);
        assert_eq!(
            code_of(r#"{"cniVersion": "1.0.0", "name": "a b"}"#),
            code::INVALID_CONFIG
        );
        assert_eq!(
            code_of(r#"{"cniVersion": "9.0.0", "name": "n"}"#),
            code::INCOMPATIBLE_VERSION
        );
        assert_eq!(
            code_of(r#"{"cniVersion": "0.5.0", "name": "n"}"#),
            code::INCOMPATIBLE_VERSION
        );
    }

    #[test]
    fn a_configuration_without_a_version_counts_as_the_oldest() {
        assert_eq!(
            Header::parse(r#"{"name": "n"}"#).unwrap().cni_version,
            "0.1.0"
        );
    }

    #[test]
    fn verbs_younger_than_the_configuration_are_incompatible() {
        let allows = |version: &str, verb: &str| {
            let config = format!(r#"{{"cniVersion": "{version}", "name": "n"}}"#);
            Header::parse(&config)
                .unwrap()
                .allows(verb)
                .map_err(|e| e.code)
        };
        for (version, check, gc) in [
            ("0.1.0", Err(1), Err(1)),
            ("0.3.1", Err(1), Err(1)),
            ("0.4.0", Ok(()), Err(1)),
            ("1.0.0", Ok(()), Err(1)),
            ("1.1.0", Ok(()), Ok(())),
        ] {
            assert_eq!(allows(version, "CHECK"), check, "{version}");
            assert_eq!(allows(version, "GC"), gc, "{version}");
            assert_eq!(allows(version, "STATUS"), gc, "{version}");
            assert_eq!(allows(version, "ADD"), Ok(()), "{version}");
            assert_eq!(allows(version, "DEL"), Ok(()), "{version}");
        }
    }

    #[test]
    fn version_answers_whatever_the_input() {
        let reply = version_reply("garbage");
        assert_eq!(reply.exit, 0);
        assert!(reply.stdout.contains(
            r#""supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#
        ));
        assert!(
            version_reply(r#"{"cniVersion":"0.4.0"}"#)
                .stdout
                .contains(r#""cniVersion":"0.4.0""#)
        );
    }
}
