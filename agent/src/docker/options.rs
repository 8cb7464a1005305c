//! Values that users give networks and endpoints.

use margay_model::protocol::Protocol;
use margay_model::workload_endpoint::EndpointPort;
use serde_json::Value;

use super::error::DockerError;
use super::protocol::{EXPOSED_PORTS, Options, PortBinding};

/// Options that begin so are labels of endpoints.
pub(super) const LABEL: &str = "margay.label.";
/// Options that begin so give a port of an endpoint a name: `margay.port.http=80/tcp`.
const PORT: &str = "margay.port.";

/// What an endpoint's `--driver-opt` and `EXPOSE` say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct EndpointOptions {
    pub(super) labels: Vec<(String, String)>,
    pub(super) ports: Vec<EndpointPort>,
}

impl EndpointOptions {
    pub(super) fn parse(options: &Options) -> Result<Self, DockerError> {
        let mut parsed = Self::default();
        for (option, value) in options {
            if !option.starts_with("margay.") {
                continue;
            }
            let text = value.as_str().unwrap_or_default();
            if let Some(label) = option.strip_prefix(LABEL) {
                check_label(option, label, text)?;
                parsed.labels.push((label.to_owned(), text.to_owned()));
            } else if let Some(name) = option.strip_prefix(PORT) {
                let named = named_port(name, text);
                let allowed = "a port and its protocol, such as 80/tcp";
                let port = named.ok_or_else(|| DockerError::option(option, text, allowed))?;
                parsed.ports.push(port);
            } else {
                return Err(DockerError::UnknownOption {
                    found: option.clone(),
                    known: "margay.label.NAME and margay.port.NAME".to_owned(),
                });
            }
        }
        for binding in bindings(options, EXPOSED_PORTS) {
            let Some(protocol) = protocol(binding.proto).filter(|_| binding.port > 0) else {
                continue;
            };
            let known =
                |port: &EndpointPort| port.port == binding.port && port.protocol == protocol;
            if !parsed.ports.iter().any(known) {
                let name = format!("{}-{}", protocol.to_string().to_lowercase(), binding.port);
                parsed.ports.push(port(name, protocol, binding.port));
            }
        }
        Ok(parsed)
    }
}

/// A list of ports among a call's options; what is not understood is left out.
pub(super) fn bindings(options: &Options, name: &str) -> Vec<PortBinding> {
    let listed = options.get(name).and_then(Value::as_array);
    let all = listed.into_iter().flatten().cloned();
    all.filter_map(|binding| serde_json::from_value(binding).ok())
        .collect()
}

/// Those that have ports.
pub(super) fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    }
}

fn named_port(name: &str, text: &str) -> Option<EndpointPort> {
    let (number, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = number.parse().ok().filter(|number| *number > 0)?;
    let protocol: Protocol = proto.parse().ok()?;
    let fits = protocol.has_ports() && is_name(name);
    fits.then(|| port(name.to_owned(), protocol, number))
}

fn port(name: String, protocol: Protocol, number: u16) -> EndpointPort {
    EndpointPort {
        name,
        protocol,
        port: number,
        host_port: None,
        host_ip: None,
        extra: Default::default(),
    }
}

/// A name that is part of a resource's name, a label's value and a part of DNS names.
pub(super) fn check_name(option: &str, value: &str) -> Result<String, DockerError> {
    let allowed =
        "at most 63 lower-case letters, digits and dashes, a letter or digit at both ends";
    match is_name(value) {
        true => Ok(value.to_owned()),
        false => Err(DockerError::option(option, value, allowed)),
    }
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && ends.into_iter().all(|end| end.is_some_and(plain))
        && text.bytes().all(|b| plain(b) || b == b'-')
}

/// A label that the validation of resources lets pass.
pub(super) fn check_label(option: &str, name: &str, value: &str) -> Result<(), DockerError> {
    match is_label(name, value) {
        true => Ok(()),
        false => Err(DockerError::option(
            option,
            value,
            "a label: a name, and at most 63 letters, digits, '-', '_' and '.' with a letter or digit at both ends",
        )),
    }
}

pub(super) fn is_label(name: &str, value: &str) -> bool {
    let part = |text: &str| {
        let ends = [text.bytes().next(), text.bytes().last()];
        text.len() <= 63
            && ends
                .into_iter()
                .flatten()
                .all(|b| b.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let (prefix, own) = match name.split_once('/') {
        Some((prefix, own)) => (Some(prefix), own),
        None => (None, name),
    };
    let domain = |text: &str| text.split('.').all(is_name);
    !own.is_empty() && part(own) && prefix.is_none_or(domain) && part(value)
}

/// 0 leaves it to the kernel, as in a CNI configuration.
pub(super) fn mtu(text: &str) -> Result<Option<u32>, DockerError> {
    match text.parse() {
        Ok(0) => Ok(None),
        // The least that IPv6 works with (RFC 8200, section 5), and the veth driver's limit.
        Ok(mtu @ 1280..=65535) => Ok(Some(mtu)),
        _ => Err(DockerError::option(
            super::protocol::MTU,
            text,
            "0 (detect) or 1280 to 65535",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(options: Value) -> Result<EndpointOptions, DockerError> {
        EndpointOptions::parse(options.as_object().unwrap())
    }

    #[test]
    fn labels_and_ports_come_from_driver_options_and_from_expose() {
        let parsed = parse(
            json!({"margay.label.role": "db", "margay.port.http": "80/tcp", "other": 1,
            EXPOSED_PORTS: [{"Proto": 6, "Port": 80}, {"Proto": 17, "Port": 53}, {"Proto": 1}, "x"]}),
        );
        let parsed = parsed.unwrap();
        assert_eq!(parsed.labels, [("role".to_owned(), "db".to_owned())]);
        let ports: Vec<_> = parsed
            .ports
            .iter()
            .map(|p| (p.name.as_str(), p.port))
            .collect();
        assert_eq!(ports, [("http", 80), ("udp-53", 53)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (options, needle) in [
            (
                json!({"margay.lable.role": "db"}),
                "unknown option margay.lable.role",
            ),
            (
                json!({"margay.label.role": "-"}),
                "margay.label.role is \"-\"",
            ),
            (json!({"margay.label.": "x"}), "a label: a name"),
            (json!({"margay.port.http": "80/icmp"}), "such as 80/tcp"),
            (json!({"margay.port.http": "0"}), "such as 80/tcp"),
        ] {
            let error = parse(options).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
