//! `bgp decode`, as a user sees it.

use super::*;

/// An UPDATE of 10.0.0.0/8 whose ORIGIN has a value that nobody defined.
const BAD_ORIGIN: &str = "ffffffffffffffffffffffffffffffff 0027 02 0000 000e \
                          40010107 400200 400304c0000201 080a";

#[test]
fn a_message_is_shown_field_by_field_with_its_verdict() {
    let ran = Lab::new().run(&format!("bgp decode {BAD_ORIGIN}"));
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert_eq!(
        ran.out,
        "\
UPDATE at octet 0, 39 octets: treat-as-withdraw
    16   length: 39
    18   type: 2 UPDATE
    19   withdrawn routes length: 0
    21   total path attribute length: 14
    23   path attributes: 3 attributes
    23     attribute 1 ORIGIN: malformed: 07
    23       flags: well-known, transitive
    27     attribute 2 AS_PATH: 
    27       flags: well-known, transitive
    30     attribute 3 NEXT_HOP: 192.0.2.1
    30       flags: well-known, transitive
    37   NLRI: 1 item
    37     prefix: 10.0.0.0/8
  error: attribute 1: the value is undefined; treat-as-withdraw; not sent, RFC 4271 had 3/6 UPDATE: \
invalid ORIGIN attribute
"
        .replace("undefined; treat", "undefined: treat")
    );
}

#[test]
fn json_has_the_documented_members() {
    let ran = Lab::new().run_with("bgp decode - -o json", BAD_ORIGIN);
    assert_eq!(ran.code, 1);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json[0]["verdict"], "treat-as-withdraw");
    assert_eq!(json[0]["errors"][0]["attribute"], 1);
    assert_eq!(json[0]["errors"][0]["notification"]["subcode"], 6);
    assert_eq!(json[0]["fields"][5]["fields"][0]["value"], "10.0.0.0/8");
}

#[test]
fn options_and_bare_bodies() {
    let lab = Lab::new();
    let path = "0000 0012 40010100 4002040201fde9 400304c0000201 080a";
    assert_eq!(lab.run(&format!("bgp decode {path}")).code, 1);
    let ran = lab.run(&format!("bgp decode --two-octet-as {path}"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("AS_PATH: 65001"), "{}", ran.out);
    let ran = lab.run("bgp decode --bare notification 0602 03 627965");
    assert_eq!(ran.code, 0);
    assert!(
        ran.out
            .contains("cease: administrative shutdown (6/2): bye"),
        "{}",
        ran.out
    );
}

#[test]
fn what_is_not_hexadecimal_is_a_usage_error() {
    for hex in ["xyz", "abc", "0x"] {
        let ran = Lab::new().run(&format!("bgp decode {hex}"));
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.starts_with("HEX: found "), "{}", ran.err);
    }
}
