//! Addresses from another plugin: `ipam.type` other than ours names a program in `CNI_PATH`.
//!
//! It gets the call as it came: the same environment and the whole configuration (spec, section 4,
//! "Plugin Delegation"). Of its result the addresses count, as /32 and /128, and `dns` where the
//! configuration has none. Its gateway and routes do not: here a container's way out is always its own
//! host, and the host's routes decide the rest. The endpoint is written without a block or a handle.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use margay_api::cni::{CniError, CniRequest, Header, code};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::{debug, info};

use super::Cni;
use super::netconf::Call;
use crate::fault;

/// DHCP may need some rounds; runtimes give up on a call after minutes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a plugin answered to ADD.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) ips: Vec<IpAddr>,
    pub(super) dns: Option<Value>,
}

#[derive(Deserialize)]
struct ResultOfAdd {
    #[serde(default)]
    ips: Vec<IpOfResult>,
    dns: Option<Value>,
}

#[derive(Deserialize)]
struct IpOfResult {
    address: String,
}

#[derive(Deserialize)]
struct ErrorOfPlugin {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

impl Cni {
    /// ADD. How to give back what comes is written down first, so that a DEL finds it whatever its own configuration
    /// says, also after a crash. What cannot be used of the result is given back.
    pub(super) async fn ask_for_addresses(
        &self,
        plugin: &str,
        request: &CniRequest,
    ) -> Result<Given, CniError> {
        let noted = CniRequest {
            command: "DEL".into(),
            ..request.clone()
        };
        self.given.write(&noted).map_err(|e| {
            let msg = format!("cannot write down that {plugin} is asked for addresses: {e}");
            CniError::new(code::IO_FAILURE, msg)
        })?;
        fault::point("before-plugin");
        let given = match call(plugin, "ADD", request).await {
            Ok(stdout) => usable(plugin, &stdout),
            Err(error) => Err(error),
        };
        if given.is_err() {
            self.give_back_or_leave(request).await;
        }
        given
    }

    /// DEL, as ADD wrote it down, else by `plugin` as the call names it. Nothing to give back is success.
    pub(super) async fn give_back(
        &self,
        request: &CniRequest,
        plugin: Option<String>,
    ) -> Result<(), CniError> {
        // That of another network, whose interface this is, stays.
        let noted = self.given.find(request);
        let noted = noted.filter(|noted| network_of(noted) == network_of(request));
        let (plugin, config) = match &noted {
            Some(noted) => (of_config(noted)?, &noted.config),
            None => (plugin, &request.config),
        };
        if let Some(plugin) = plugin {
            let del = CniRequest {
                config: config.clone(),
                ..request.clone()
            };
            forward(&plugin, "DEL", &del).await?;
            fault::point("after-given-back");
        }
        if noted.is_some() {
            self.given.forget(request);
        }
        Ok(())
    }

    /// After a failed ADD; a failure of this too is left to the runtime's own DEL.
    pub(super) async fn give_back_or_leave(&self, request: &CniRequest) {
        if let Err(error) = self.give_back(request, None).await {
            info!(
                container = request.container_id,
                error = error.msg,
                "address is left to DEL"
            );
        }
    }
}

fn network_of(request: &CniRequest) -> Option<String> {
    Header::parse(&request.config)
        .ok()
        .map(|header| header.name)
}

fn of_config(noted: &CniRequest) -> Result<Option<String>, CniError> {
    let header = Header::parse(&noted.config).map_err(|(_version, error)| error)?;
    Ok(Call::parse(noted, &header)?.delegate)
}

/// Any verb whose result does not matter.
pub(super) async fn forward(
    plugin: &str,
    verb: &str,
    request: &CniRequest,
) -> Result<(), CniError> {
    call(plugin, verb, request).await.map(drop)
}

fn usable(plugin: &str, stdout: &[u8]) -> Result<Given, CniError> {
    let invalid = |why: String| {
        let msg = format!("the result of IPAM plugin {plugin} cannot be used: {why}");
        CniError::new(code::NO_ADDRESS, msg)
    };
    let result: ResultOfAdd = serde_json::from_slice(stdout).map_err(|e| invalid(e.to_string()))?;
    let mut ips: Vec<IpAddr> = Vec::new();
    for IpOfResult { address } in result.ips {
        let bare = address.split('/').next().unwrap_or_default();
        let ip = bare
            .parse::<IpAddr>()
            .map_err(|_e: std::net::AddrParseError| invalid(format!("address {address:?}")))?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    if ips.is_empty() {
        return Err(invalid("it has no address".into()));
    }
    // An empty object says nothing.
    let dns = result
        .dns
        .filter(|dns| dns.as_object().is_some_and(|d| !d.is_empty()));
    Ok(Given { ips, dns })
}

async fn call(plugin: &str, verb: &str, request: &CniRequest) -> Result<Vec<u8>, CniError> {
    let program = find(plugin, &request.path)?;
    let failed = |what: &str, e: std::io::Error| {
        let msg = format!("IPAM plugin {} {what}: {e}", program.display());
        CniError::new(code::IO_FAILURE, msg)
    };
    let mut child = Command::new(&program)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &request.container_id)
        .env("CNI_NETNS", &request.netns)
        .env("CNI_IFNAME", &request.ifname)
        .env("CNI_ARGS", &request.args)
        .env("CNI_PATH", &request.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed("cannot be run", e))?;
    let mut stdin = child.stdin.take();
    let run = async {
        if let Some(stdin) = &mut stdin {
            // A plugin that does not read to the end still has an answer.
            if let Err(error) = stdin.write_all(request.config.as_bytes()).await {
                debug!(plugin, %error, "configuration not read to the end");
            }
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(TIMEOUT, run).await {
        Ok(output) => output.map_err(|e| failed("cannot be waited for", e))?,
        Err(_elapsed) => {
            let secs = TIMEOUT.as_secs();
            let msg = format!("IPAM plugin {plugin} has not answered {verb} within {secs} s");
            return Err(CniError::new(code::TRY_AGAIN_LATER, msg));
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !stderr.trim().is_empty() {
        info!(plugin, verb, stderr = stderr.trim(), "IPAM plugin");
    }
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(
        match serde_json::from_slice::<ErrorOfPlugin>(&output.stdout) {
            Ok(error) => CniError::new(error.code, format!("{plugin}: {}", error.msg))
                .with_details(error.details),
            Err(_no_error_object) => {
                let msg = format!("IPAM plugin {plugin} failed {verb} with {}", output.status);
                CniError::new(code::IO_FAILURE, msg).with_details(stderr.trim())
            }
        },
    )
}

fn find(plugin: &str, path: &str) -> Result<PathBuf, CniError> {
    let found = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(plugin))
        .find(|program| program.is_file());
    found.ok_or_else(|| {
        let msg = format!("ipam.type is {plugin:?}, and CNI_PATH {path:?} has no such plugin");
        CniError::new(code::INVALID_CONFIG, msg)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_subnet_and_empty_dns_is_none() {
        let text = br#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.2/24",
            "gateway":"10.1.0.1"},{"address":"fd00::2/64"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;
        let expected: Vec<IpAddr> = ["10.1.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(
            usable("x", text).unwrap(),
            Given {
                ips: expected,
                dns: None
            }
        );
    }

    #[test]
    fn a_result_without_a_usable_address_is_an_error_that_names_the_plugin() {
        for text in ["", "{}", r#"{"ips":[{"address":"10.1/24"}]}"#] {
            let error = usable("host-local", text.as_bytes()).unwrap_err();
            assert!(
                error.msg.contains("IPAM plugin host-local"),
                "{}",
                error.msg
            );
        }
    }

    #[test]
    fn a_plugin_is_looked_for_in_the_path_alone() {
        let error = find("no-such-plugin", "/usr/lib/cni:relative").unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG);
        assert!(find("sh", "/nowhere:/bin").is_ok());
    }
}
