//! Which settings a host has, where they may come from, and what they are when nobody says.
//!
//! A parameter of FelixConfiguration is looked for in the agent's environment, its file, the object `node.NAME`, the
//! objects whose nodeSelector selects the host (by name), the object `default`, in this order; one of
//! BGPConfiguration in `node.NAME` and `default`.

use serde_json::{Map, Value};

use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::schema::{Checker, Schema, Shape, Unknown, resource_schema};

/// What an environment variable of the agent begins with, in any case.
pub const ENVIRONMENT: &str = "FELIX_";

/// A parameter of FelixConfiguration or BGPConfiguration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The member of `spec`.
    pub name: &'static str,
    /// What an agent acts upon where nobody says anything; none for what no agent of ours acts upon.
    pub default: Option<&'static str>,
}

/// What the agent acts upon, and what it takes where nobody says anything.
const FELIX: [(&str, &str); 39] = [
    ("defaultEndpointToHostAction", "Drop"),
    ("deniedConnections", "End"),
    ("disableConntrackInvalidCheck", "false"),
    (
        "failsafeInboundHostPorts",
        "tcp:22, udp:68, tcp:179, tcp:2379, tcp:2380, tcp:5473, tcp:6443, tcp:6666, tcp:6667, udp:3784, udp:4784",
    ),
    (
        "failsafeOutboundHostPorts",
        "udp:53, udp:67, tcp:179, tcp:2379, tcp:2380, tcp:5473, tcp:6443, tcp:6666, tcp:6667, udp:3784, udp:4784",
    ),
    ("floatingIPs", "Disabled"),
    ("interfacePrefix", "mgy"),
    ("ipipMTU", "(found out)"),
    ("ipsetsRefreshInterval", "1m0s"),
    ("iptablesBackend", "Auto"),
    ("iptablesFilterDenyAction", "Drop"),
    ("iptablesMarkMask", "4294901760"),
    ("iptablesRefreshInterval", "1m0s"),
    ("logPrefix", "margay"),
    ("mssClamping", "Enabled"),
    ("natOutgoingAddress", "(that of the interface)"),
    ("natOutgoingExclusions", "IPPoolsOnly"),
    ("natPortRange", "(the kernel's)"),
    ("nftablesMode", "Auto"),
    ("prometheusWireGuardMetricsEnabled", "true"),
    ("routeRefreshInterval", "1m0s"),
    ("serviceLoopPrevention", "Drop"),
    ("vxlanMTU", "(found out)"),
    ("vxlanMTUV6", "(found out)"),
    ("vxlanPort", "4789"),
    ("vxlanVNI", "4096"),
    ("wireguardEnabled", "false"),
    ("wireguardEnabledV6", "false"),
    ("wireguardHostEncryptionEnabled", "false"),
    ("wireguardInterfaceName", "wireguard.cali"),
    ("wireguardInterfaceNameV6", "wg-v6.cali"),
    ("wireguardKeepAlive", "0s"),
    ("wireguardListeningPort", "51820"),
    ("wireguardListeningPortV6", "51821"),
    ("wireguardMTU", "(found out)"),
    ("wireguardMTUV6", "(found out)"),
    ("wireguardRoutingRulePriority", "99"),
    ("wireguardThreadingEnabled", "false"),
    ("workloadSourceSpoofing", "Disabled"),
];

const BGP: [(&str, &str); 12] = [
    ("asNumber", "64512"),
    ("bindMode", "None"),
    ("communities", "(none)"),
    ("listenPort", "179"),
    ("nodeMeshMaxRestartTime", "2m0s"),
    ("nodeMeshPassword", "(none)"),
    ("nodeToNodeMeshEnabled", "true"),
    ("prefixAdvertisements", "(none)"),
    ("serviceClusterIPs", "(none)"),
    ("serviceExternalIPs", "(none)"),
    ("serviceLoadBalancerAggregation", "Enabled"),
    ("serviceLoadBalancerIPs", "(none)"),
];

/// Every parameter of FelixConfiguration or BGPConfiguration, by name; none of other kinds.
pub fn parameters(kind: Kind) -> Vec<Parameter> {
    let used: &[(&str, &str)] = match kind {
        Kind::FelixConfiguration => &FELIX,
        Kind::BgpConfiguration => &BGP,
        _ => return Vec::new(),
    };
    let spec = spec_schema(kind);
    let names = spec.fields.iter().chain(spec.kept).map(|(name, _)| *name);
    let parameter = |name| Parameter {
        name,
        default: used.iter().find(|(n, _)| *n == name).map(|(_, text)| *text),
    };
    // It chooses hosts, and is no setting of one.
    let names = names.filter(|name| *name != "nodeSelector");
    let mut all: Vec<_> = names.map(parameter).collect();
    all.sort_unstable_by_key(|parameter| parameter.name);
    all
}

fn spec_schema(kind: Kind) -> &'static Schema {
    let schema = resource_schema(kind);
    match schema.fields.iter().find(|(name, _)| *name == "spec") {
        Some((_, Shape::Object(spec))) => spec,
        _ => unreachable!("every kind has a spec"),
    }
}

/// The settings of FelixConfiguration that an agent's environment has, without what is wrong with it.
pub fn from_environment(
    variables: impl Iterator<Item = (String, String)>,
) -> (Map<String, Value>, Vec<FieldError>) {
    let spec = spec_schema(Kind::FelixConfiguration);
    let mut settings = Map::new();
    for (variable, text) in variables {
        let Some(name) = variable
            .get(..ENVIRONMENT.len())
            .filter(|start| start.eq_ignore_ascii_case(ENVIRONMENT))
            .map(|start| &variable[start.len()..])
        else {
            continue;
        };
        let mut known = spec.fields.iter().chain(spec.kept);
        // Variables of other programs may begin like this, and no typing error is as likely as that.
        if let Some((name, shape)) = known.find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            settings.insert((*name).to_owned(), value(name, shape, &text));
        }
    }
    let errors = check(&mut settings);
    (settings, errors)
}

/// Takes out of settings of FelixConfiguration what is wrong with them, and says what that is.
pub fn check(settings: &mut Map<String, Value>) -> Vec<FieldError> {
    let mut checker = Checker::new(Unknown::Refuse, None);
    let mut value = Value::Object(std::mem::take(settings));
    let shape = Shape::Object(spec_schema(Kind::FelixConfiguration));
    checker.check(&shape, &mut value);
    if let Value::Object(checked) = value {
        *settings = checked;
    }
    checker.errors
}

/// A text as the member of `spec` that it stands for. What it cannot stand for stays a text, and is refused.
fn value(name: &str, shape: &Shape, text: &str) -> Value {
    let text = text.trim();
    match shape {
        Shape::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Value::Bool(true),
            "false" | "0" | "no" => Value::Bool(false),
            _ => text.into(),
        },
        Shape::Whole(..) => number(text).map_or_else(|| text.into(), Value::from),
        // Other tools give seconds.
        Shape::Form(_) if name.ends_with("Interval") && number(text).is_some() => {
            format!("{text}s").into()
        }
        Shape::List(Shape::Object(_), _) => match text {
            "" | "none" => Value::Array(Vec::new()),
            ports => ports.split(',').map(port).collect(),
        },
        Shape::List(..) => text
            .split(',')
            .map(|item| Value::from(item.trim()))
            .collect(),
        _ => text.into(),
    }
}

/// Decimal, or hexadecimal as masks are written.
fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `tcp:22`, `tcp:10.0.0.0/8:22`, or `22`, which is TCP.
fn port(text: &str) -> Value {
    let text = text.trim();
    let (protocol, rest) = text.split_once(':').unwrap_or(("tcp", text));
    let (net, port) = match rest.rsplit_once(':') {
        Some((net, port)) => (Some(net), port),
        None => (None, rest),
    };
    let mut port = serde_json::json!({
        "protocol": protocol.to_ascii_uppercase(),
        "port": number(port).map_or_else(|| port.into(), Value::from),
    });
    if let Some(net) = net {
        port["net"] = net.into();
    }
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> (Value, Vec<String>) {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let (settings, errors) = from_environment(pairs);
        let errors = errors.iter().map(ToString::to_string).collect();
        (settings.into(), errors)
    }

    #[test]
    fn every_parameter_is_listed_once_and_all_that_are_used_exist() {
        for (kind, used) in [(Kind::FelixConfiguration, 39), (Kind::BgpConfiguration, 12)] {
            let all = parameters(kind);
            assert!(all.windows(2).all(|pair| pair[0].name < pair[1].name));
            let found = all.iter().filter(|p| p.default.is_some()).count();
            assert_eq!(found, used, "{kind}");
        }
        assert!(parameters(Kind::FelixConfiguration).len() > 150);
        assert!(parameters(Kind::Node).is_empty());
    }

    #[test]
    fn variables_are_read_in_the_forms_that_scripts_have() {
        let (settings, errors) = environment(&[
            ("FELIX_LOGPREFIX", "edge"),
            ("Felix_DisableConntrackInvalidCheck", "TRUE"),
            ("FELIX_IPTABLESREFRESHINTERVAL", "90"),
            ("FELIX_ROUTEREFRESHINTERVAL", "2m"),
            ("FELIX_IPTABLESMARKMASK", "0xffff0000"),
            (
                "FELIX_FAILSAFEINBOUNDHOSTPORTS",
                "tcp:22, udp:10.0.0.0/8:68,830",
            ),
            ("FELIX_FAILSAFEOUTBOUNDHOSTPORTS", "none"),
            ("FELIX_SOMETHING_ELSE", "x"),
            ("FELIXÄ", "x"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(errors, [""; 0]);
        assert_eq!(
            settings,
            serde_json::json!({
                "logPrefix": "edge", "disableConntrackInvalidCheck": true,
                "iptablesRefreshInterval": "90s", "routeRefreshInterval": "2m",
                "iptablesMarkMask": 4_294_901_760_u32,
                "failsafeInboundHostPorts": [
                    {"protocol": "TCP", "port": 22}, {"protocol": "UDP", "port": 68, "net": "10.0.0.0/8"},
                    {"protocol": "TCP", "port": 830},
                ],
                "failsafeOutboundHostPorts": [],
            })
        );
    }

    #[test]
    fn what_a_variable_cannot_mean_is_told_and_left_out() {
        let (settings, errors) = environment(&[
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "MAYBE"),
            ("FELIX_IPTABLESMARKMASK", "many"),
            ("FELIX_LOGPREFIX", "kept"),
        ]);
        assert_eq!(settings, serde_json::json!({"logPrefix": "kept"}));
        assert_eq!(
            errors,
            [
                "defaultEndpointToHostAction: found \"MAYBE\", allowed: Drop, Return, Accept",
                "iptablesMarkMask: found \"many\", allowed: 0 to 4294967295",
            ]
        );
    }
}
