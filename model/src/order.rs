//! The `order` of tiers and policies: a number written without a fraction where it has none.

use serde::Serializer;

/// Largest magnitude below which every whole `f64` is exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes 100.0 as `100`, as the established system does.
#[expect(
    clippy::ref_option,
    reason = "the signature that serde's serialize_with asks for"
)]
pub(crate) fn serialize<S: Serializer>(
    order: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match *order {
        None => serializer.serialize_none(),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and within the exact range"
        )]
        Some(order) if order.fract() == 0.0 && order.abs() < EXACT => {
            serializer.serialize_i64(order as i64)
        }
        Some(order) => serializer.serialize_f64(order),
    }
}
