//! Hardware addresses as text.

/// `aa:bb:cc:dd:ee:ff`.
pub(crate) fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Six hex octets; none for anything else.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octet = |part: &str| u8::from_str_radix(part, 16).ok();
    let bytes: Option<Vec<u8>> = text.split(':').map(octet).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_garbage_is_none() {
        let mac = [2, 0, 0xab, 0, 0, 0xff];
        assert_eq!(parse_mac(&format_mac(mac)), Some(mac));
        for text in [
            "",
            "02:00:ab:00:00",
            "02:00:ab:00:00:ff:00",
            "02:00:ab:00:00:100",
            "x",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
