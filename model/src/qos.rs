//! What `qosControls` of a WorkloadEndpoint asks for, as far as rules can give it.
//!
//! The field is kept as it is written, so that what is not known here is not lost.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::workload_endpoint::WorkloadEndpointSpec;

/// Where it is in the `spec`.
pub const FIELD: &str = "qosControls";

/// Limits of packets and connections, and the mark of packets that leave the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QosControls {
    /// Packets a second that it receives.
    pub ingress_packet_rate: Option<u64>,
    /// Packets at once that it receives.
    pub ingress_packet_burst: Option<u32>,
    /// Connections to it at a time.
    pub ingress_max_connections: Option<u32>,
    /// Packets a second that it sends.
    pub egress_packet_rate: Option<u64>,
    /// Packets at once that it sends.
    pub egress_packet_burst: Option<u32>,
    /// Connections that it has opened at a time.
    pub egress_max_connections: Option<u32>,
    /// Differentiated services code point of what it sends out of the cluster, 0 to 63.
    #[serde(deserialize_with = "dscp")]
    pub dscp: Option<u8>,
}

/// Names of RFC 2474, RFC 2597, RFC 3246, RFC 5865 and RFC 8622.
const DSCP_NAMES: [(&str, u8); 24] = [
    ("DF", 0),
    ("EF", 46),
    ("VA", 44),
    ("LE", 1),
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
    ("CS7", 56),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
];

fn dscp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_u64().and_then(|n| u8::try_from(n).ok()),
        Value::String(text) => {
            let named = DSCP_NAMES
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text));
            named.map(|(_, value)| *value).or_else(|| text.parse().ok())
        }
        _ => None,
    };
    match number.filter(|number| *number < 64) {
        Some(number) => Ok(Some(number)),
        None => Err(serde::de::Error::custom(format!(
            "dscp is {value}, must be 0 to 63 or a name such as EF, AF41, CS6"
        ))),
    }
}

impl WorkloadEndpointSpec {
    /// What it asks for.
    ///
    /// # Errors
    /// A value that is out of range or of another type, in words.
    pub fn qos_controls(&self) -> Result<QosControls, String> {
        match self.extra.get(FIELD) {
            None => Ok(QosControls::default()),
            Some(value) => {
                QosControls::deserialize(value).map_err(|error| format!("{FIELD}: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn controls(value: Value) -> Result<QosControls, String> {
        let spec: WorkloadEndpointSpec =
            serde_json::from_value(json!({"qosControls": value})).unwrap();
        spec.qos_controls()
    }

    #[test]
    fn limits_and_code_points_are_read_by_name_and_number() {
        let all = json!({"ingressPacketRate": 100, "ingressPacketBurst": 7, "egressMaxConnections": 3,
                         "ingressBandwidth": 1_000_000, "dscp": "af41"});
        let controls_read = controls(all).unwrap();
        assert_eq!(controls_read.ingress_packet_rate, Some(100));
        assert_eq!(controls_read.ingress_packet_burst, Some(7));
        assert_eq!(controls_read.egress_max_connections, Some(3));
        assert_eq!(controls_read.dscp, Some(34));
        assert_eq!(controls(json!({"dscp": 46})).unwrap().dscp, Some(46));
        assert_eq!(controls(json!({"dscp": "10"})).unwrap().dscp, Some(10));
        assert_eq!(
            WorkloadEndpointSpec::default().qos_controls(),
            Ok(QosControls::default())
        );
    }

    #[test]
    fn what_is_out_of_range_is_told() {
        let error = controls(json!({"dscp": 64})).unwrap_err();
        assert_eq!(
            error,
            "qosControls: dscp is 64, must be 0 to 63 or a name such as EF, AF41, CS6"
        );
        assert!(controls(json!({"ingressPacketRate": -1})).is_err());
        assert!(controls(json!({"dscp": "best"})).is_err());
    }
}
