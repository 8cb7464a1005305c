//! What is fuzzed of the speaker, as in `bgp/tests/fuzz`: decoders beside those of the protocol.

use margay_speaker::decoders;

/// A decoder under test.
pub(crate) type Target = fn(&[u8]);

/// Every target with its name, which is also the folder of its corpus.
pub(crate) const TARGETS: [(&str, Target); 2] =
    [("router_adv", router_adv), ("hand_over", hand_over)];

/// An ICMPv6 message of whoever is on the link (RFC 4861).
pub(crate) fn router_adv(message: &[u8]) {
    if decoders::is_router(message) {
        assert_eq!(message[..2], [134, 0], "no other message tells of a router");
    }
}

/// Fields of what another process has left, with a sum that is right. What is read is written so that the
/// same is read once more.
pub(crate) fn hand_over(fields: &[u8]) {
    if let Some(again) = decoders::hand_over(fields) {
        assert_eq!(decoders::hand_over(&again), Some(again));
    }
}
