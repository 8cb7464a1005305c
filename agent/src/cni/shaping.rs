//! Bandwidth: of `runtimeConfig`, else of annotations.
//!
//! `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`, or `qos.projectcalico.org/ingressBandwidth` and
//! `egressBandwidth` with `ingressBurst` and `egressBurst`: quantities in bits a second, and bits, such as `10M`.
//! Ingress is towards the container.

use std::collections::BTreeMap;

use margay_api::cni::{CniError, code};
use margay_dataplane::bandwidth::{Bandwidth, Limit};

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
    let burst = burst.map_or(
        (rate / BURST_SHARE).max(SMALLEST_BURST_BITS),
        |(_, bits)| bits,
    );
    limit(&format!("annotation {key}"), rate, burst).map(Some)
}

fn limit(source: &str, rate_bits: u64, burst_bits: u64) -> Result<Limit, CniError> {
    let limit = Limit {
        rate: rate_bits / 8,
        // Far beyond what any queue holds; CRI runtimes send the largest number they have.
        burst: u32::try_from(burst_bits / 8).unwrap_or(u32::MAX),
    };
    if limit.rate == 0 {
        let msg = format!("{source} is {rate_bits}, must be 8 bits a second or more");
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    }
    Ok(limit)
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
        let limit = |rate, burst| Some(Limit { rate, burst });
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
