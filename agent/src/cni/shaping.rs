//! Bandwidth: of `runtimeConfig`, else of annotations. Limits of packets and connections: of annotations.
//!
//! `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`, or `qos.projectcalico.org/ingressBandwidth` and
//! `egressBandwidth` with `ingressBurst` and `egressBurst`: quantities in bits a second, and bits, such as `10M`;
//! `ingressPeakrate` with `ingressMinburst`, and the same with `egress`, for how fast a burst passes. Ingress is towards the container. `ingressPacketRate`, `ingressPacketBurst` and `ingressMaxConnections`, the same with
//! `egress`, and `dscp` go into the endpoint as its `qosControls`, which the packet filter sees to.

use std::collections::BTreeMap;

use margay_api::cni::{CniError, code};
use margay_dataplane::bandwidth::{Bandwidth, Limit, Peak};
use margay_model::qos::QosControls;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::runtime::BandwidthConf;

const KUBERNETES: &str = "kubernetes.io/";
const ESTABLISHED: &str = "qos.projectcalico.org/";

/// Without a burst: what passes in a tenth of a second, but room for some of the largest packets there are.
const BURST_SHARE: u64 = 10;
const SMALLEST_BURST_BITS: u64 = 4 * 65_536 * 8;

/// The limits of one container.
pub(super) fn bandwidth(
    asked: Option<BandwidthConf>,
    annotations: &BTreeMap<String, String>,
) -> Result<Bandwidth, CniError> {
    let asked = asked.unwrap_or_default();
    let one = |way: &str, rate: u64, burst: u64| match rate {
        0 if burst == 0 => annotated(way, annotations),
        0 => Ok(None),
        _ if burst == 0 => {
            let msg = format!(
                "runtimeConfig.bandwidth: {way}Burst is 0, must be set where {way}Rate is ({rate})"
            );
            Err(CniError::new(code::INVALID_CONFIG, msg))
        }
        _ => limit(&format!("runtimeConfig.bandwidth.{way}Rate"), rate, burst).map(Some),
    };
    Ok(Bandwidth {
        to_container: one("ingress", asked.ingress_rate, asked.ingress_burst)?,
        from_container: one("egress", asked.egress_rate, asked.egress_burst)?,
    })
}

/// Counts, as the endpoint has them, and the largest there can be.
const COUNTS: [(&str, u64); 6] = [
    ("ingressPacketRate", u64::MAX),
    ("ingressPacketBurst", u32::MAX as u64),
    ("ingressMaxConnections", u32::MAX as u64),
    ("egressPacketRate", u64::MAX),
    ("egressPacketBurst", u32::MAX as u64),
    ("egressMaxConnections", u32::MAX as u64),
];
const DSCP: &str = "dscp";

/// `qosControls` of the endpoint; none if no annotation asks for any.
pub(super) fn controls(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, CniError> {
    let invalid = |msg: String| CniError::new(code::INVALID_CONFIG, msg);
    let mut found = Map::new();
    for (name, most) in COUNTS {
        let key = format!("{ESTABLISHED}{name}");
        let Some(text) = annotations.get(&key) else {
            continue;
        };
        let number = quantity(text).filter(|number| (1..=most).contains(number));
        let number = number.ok_or_else(|| {
            invalid(format!(
                "annotation {key} is {text:?}, must be a quantity from 1 to {most} such as \"2k\""
            ))
        })?;
        found.insert(name.to_owned(), number.into());
    }
    let key = format!("{ESTABLISHED}{DSCP}");
    if let Some(text) = annotations.get(&key) {
        found.insert(DSCP.to_owned(), text.trim().into());
    }
    let controls = Value::Object(found);
    // What was put together here can be wrong in the code point only.
    QosControls::deserialize(&controls)
        .map_err(|error| invalid(format!("annotation {ESTABLISHED}{error}")))?;
    let some = controls.as_object().is_some_and(|found| !found.is_empty());
    Ok(some.then_some(controls))
}

/// Whether a key of `CNI_ARGS` is one of these annotations.
pub(super) fn is_annotation(key: &str) -> bool {
    key.starts_with(ESTABLISHED)
        || key == format!("{KUBERNETES}ingress-bandwidth")
        || key == format!("{KUBERNETES}egress-bandwidth")
}

fn annotated(way: &str, annotations: &BTreeMap<String, String>) -> Result<Option<Limit>, CniError> {
    let found = |key: String| -> Result<Option<(String, u64)>, CniError> {
        let Some(text) = annotations.get(&key) else {
            return Ok(None);
        };
        let number = quantity(text).filter(|number| *number > 0);
        let Some(number) = number else {
            let msg = format!(
                "annotation {key} is {text:?}, must be a positive quantity such as \"10M\""
            );
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        Ok(Some((key, number)))
    };
    let rate = match found(format!("{ESTABLISHED}{way}Bandwidth"))? {
        None => found(format!("{KUBERNETES}{way}-bandwidth"))?,
        rate => rate,
    };
    let Some((key, rate)) = rate else {
        return Ok(None);
    };
    let burst = found(format!("{ESTABLISHED}{way}Burst"))?;
    let peak = found(format!("{ESTABLISHED}{way}Peakrate"))?;
    let min_burst = found(format!("{ESTABLISHED}{way}Minburst"))?;
    let burst = burst.map_or(
        (rate / BURST_SHARE).max(SMALLEST_BURST_BITS),
        |(_, bits)| bits,
    );
    let mut limit = limit(&format!("annotation {key}"), rate, burst)?;
    if let Some((key, bits)) = peak {
        let peak = Peak {
            rate: bits / 8,
            // The largest packet, where nobody says more.
            burst: min_burst.map_or(0, |(_, bits)| bytes(bits)),
        };
        if peak.rate <= limit.rate {
            let msg =
                format!("annotation {key} is {bits}, must be more than {rate}, which is the rate");
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        }
        limit.peak = Some(peak);
    }
    Ok(Some(limit))
}

fn limit(source: &str, rate_bits: u64, burst_bits: u64) -> Result<Limit, CniError> {
    let limit = Limit {
        rate: rate_bits / 8,
        burst: bytes(burst_bits),
        peak: None,
    };
    if limit.rate == 0 {
        let msg = format!("{source} is {rate_bits}, must be 8 bits a second or more");
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    }
    Ok(limit)
}

/// CRI runtimes send the largest number they have, far beyond what any queue holds.
fn bytes(bits: u64) -> u32 {
    u32::try_from(bits / 8).unwrap_or(u32::MAX)
}

/// A whole quantity of Kubernetes: a number with one of its suffixes.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn the_runtime_wins_over_annotations_for_each_way_by_itself() {
        let asked = BandwidthConf {
            ingress_rate: 8_000_000,
            ingress_burst: 80_000,
            ..BandwidthConf::default()
        };
        let notes = annotations(&[
            ("kubernetes.io/ingress-bandwidth", "1M"),
            ("kubernetes.io/egress-bandwidth", "16M"),
        ]);
        let found = bandwidth(Some(asked), &notes).unwrap();
        let limit = |rate, burst| {
            let peak = None;
            Some(Limit { rate, burst, peak })
        };
        assert_eq!(found.to_container, limit(1_000_000, 10_000));
        assert_eq!(found.from_container, limit(2_000_000, 262_144));
        let notes = annotations(&[
            ("qos.projectcalico.org/egressBandwidth", "8M"),
            ("qos.projectcalico.org/egressBurst", "80k"),
            ("kubernetes.io/egress-bandwidth", "16M"),
        ]);
        let found = bandwidth(None, &notes).unwrap();
        assert_eq!(
            (found.to_container, found.from_container),
            (None, limit(1_000_000, 10_000))
        );
    }

    #[test]
    fn a_burst_has_a_rate_of_its_own_above_that_of_all() {
        let way = |pairs: &[(&str, &str)]| {
            let named = pairs
                .iter()
                .map(|(name, text)| (format!("{ESTABLISHED}{name}"), (*text).to_owned()));
            bandwidth(None, &named.collect())
        };
        let notes = [
            ("egressBandwidth", "8M"),
            ("egressBurst", "80k"),
            ("egressPeakrate", "16M"),
            ("egressMinburst", "24k"),
        ];
        let found = way(&notes).unwrap().from_container.unwrap();
        let peak = Peak {
            rate: 2_000_000,
            burst: 3000,
        };
        assert_eq!(found.peak, Some(peak));
        let found = way(&notes[..3]).unwrap().from_container.unwrap();
        assert_eq!(found.peak.unwrap().burst, 0);
        // Without a rate there is nothing to burst.
        assert_eq!(way(&notes[2..]).unwrap(), Bandwidth::default());
        for (text, needle) in [
            ("8M", "must be more than 8000000"),
            ("fast", "a positive quantity"),
        ] {
            let error = way(&[notes[0], ("egressPeakrate", text)]).unwrap_err();
            assert!(error.msg.contains(needle), "{}", error.msg);
        }
    }

    #[test]
    fn counts_and_code_points_become_controls_of_the_endpoint() {
        let notes = annotations(&[
            ("qos.projectcalico.org/ingressPacketRate", "2k"),
            ("qos.projectcalico.org/egressMaxConnections", "30"),
            ("qos.projectcalico.org/dscp", "AF41"),
            ("qos.projectcalico.org/ingressBandwidth", "8M"),
        ]);
        let wanted = json!({"ingressPacketRate": 2000, "egressMaxConnections": 30, "dscp": "AF41"});
        assert_eq!(controls(&notes).unwrap(), Some(wanted));
        assert_eq!(controls(&BTreeMap::new()).unwrap(), None);
        for (name, text, needle) in [
            ("egressPacketRate", "0", "must be a quantity from 1"),
            ("egressPacketBurst", "5G", "to 4294967295"),
            ("ingressMaxConnections", "-1", "must be a quantity from 1"),
            ("dscp", "64", "dscp is \"64\", must be 0 to 63"),
        ] {
            let key = format!("qos.projectcalico.org/{name}");
            let error = controls(&annotations(&[(&key, text)])).unwrap_err();
            assert!(
                error.msg.starts_with(&format!("annotation {key}")),
                "{}",
                error.msg
            );
            assert!(error.msg.contains(needle), "{}", error.msg);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_is_allowed() {
        let asked = BandwidthConf {
            egress_rate: 1000,
            ..BandwidthConf::default()
        };
        let error = bandwidth(Some(asked), &BTreeMap::new()).unwrap_err();
        assert!(
            error.msg.contains("egressBurst is 0, must be set"),
            "{}",
            error.msg
        );
        for text in ["fast", "-1M", "0", "1.5M", "99999999999T"] {
            let notes = annotations(&[("kubernetes.io/ingress-bandwidth", text)]);
            let error = bandwidth(None, &notes).unwrap_err();
            assert!(
                error.msg.contains("must be a positive quantity"),
                "{}",
                error.msg
            );
        }
        let notes = annotations(&[("kubernetes.io/ingress-bandwidth", "7")]);
        assert!(
            bandwidth(None, &notes)
                .unwrap_err()
                .msg
                .contains("8 bits a second")
        );
    }
}
