//! The names of endpoints in DNS.

use super::text::{Kind, Text};
use crate::dns::Responder;

pub(super) fn collect(responder: &Responder, text: &mut Text) {
    let help = "Endpoints that have a name in DNS.";
    let named = responder.named() as f64;
    text.single(Kind::Gauge, "margay_dns_endpoints", help, named);
    let samples = responder
        .counters()
        .all()
        .map(|(result, count)| (vec![("result", result.to_owned())], count as f64));
    let help = "DNS queries, by what became of them.";
    text.metric(Kind::Counter, "margay_dns_queries_total", help, samples);
}
