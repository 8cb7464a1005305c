//! Removes secrets from text.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Stands where a secret was.
const REMOVED: &str = "(removed)";

/// A name that promises a secret, what separates it from its value, and the value: quoted or a word.
/// Names of files, and references to secrets, are none.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?ix)
        (?P<name> [a-z0-9_.-]* (?: pass(?:word|wd|phrase) | secret | token | private[_-]?key | psk
            | api[_-]?key | credential s? ) [a-z0-9_-]* )
        (?P<sep> \\?["']? \s* [:=]{1,2} \s* )
        (?P<value> \\"[^"\\\n]*\\" | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^\s,;"'{}\[\]]+ )
        "#,
    )
    .expect("a pattern that the tests compile")
});

/// As an argument of a program: `--password VALUE`.
static FLAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(--?[a-z-]*(?:password|passwd|secret|token)[a-z-]*\s+)([^\s-]\S*)")
        .expect("a pattern that the tests compile")
});

/// Credentials in an address, and those of HTTP.
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@\x22']+@")
        .expect("a pattern that the tests compile")
});
static HTTP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
        .expect("a pattern that the tests compile")
});

/// A private key in PEM, also in a text of JSON; one that is cut off goes to the end.
static PEM: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
    )
    .expect("a pattern that the tests compile")
});

/// The text without secrets.
pub(super) fn redact(text: &str) -> String {
    let text = PEM.replace_all(text, REMOVED);
    let text = ADDRESS.replace_all(&text, format!("${{scheme}}{REMOVED}@"));
    let text = HTTP.replace_all(&text, format!("${{1}}{REMOVED}"));
    let text = FLAG.replace_all(&text, format!("${{1}}{REMOVED}"));
    NAMED.replace_all(&text, named).into_owned()
}

fn named(found: &Captures<'_>) -> String {
    let (name, value) = (&found["name"], &found["value"]);
    let lower = name.to_ascii_lowercase();
    let harmless = ["file", "dir", "ref", "path", "name"]
        .iter()
        .any(|end| lower.ends_with(end))
        || matches!(value, "null" | "true" | "false" | "|" | ">")
        || value.contains(REMOVED);
    if harmless {
        return found[0].to_owned();
    }
    let quote = if value.starts_with("\\\"") {
        "\\\""
    } else if value.starts_with('"') {
        "\""
    } else {
        ""
    };
    format!("{name}{}{quote}{REMOVED}{quote}", &found["sep"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_all_else_stays() {
        for (text, clean) in [
            ("etcdPassword: hush", "etcdPassword: (removed)"),
            (
                "  password: \"two words\" # x",
                "  password: \"(removed)\" # x",
            ),
            (
                r#"{"password":"h\"x","b":1}"#,
                r#"{"password":"(removed)","b":1}"#,
            ),
            (
                r#""note": "{\"token\": \"abc\"}""#,
                r#""note": "{\"token\": \"(removed)\"}""#,
            ),
            ("ETCD_PASSWORD=hush A=b", "ETCD_PASSWORD=(removed) A=b"),
            (
                "margay --etcd-password hush -v",
                "margay --etcd-password (removed) -v",
            ),
            (
                "https://joe:hush@etcd:2379/x",
                "https://(removed)@etcd:2379/x",
            ),
            (
                "Authorization: Bearer abcdefgh.ijk",
                "Authorization: Bearer (removed)",
            ),
            (
                "wireguard private-key = AbC=",
                "wireguard private-key = (removed)",
            ),
            (
                "a\n-----BEGIN EC PRIVATE KEY-----\nMIIB\n-----END EC PRIVATE KEY-----\nb",
                "a\n(removed)\nb",
            ),
            ("key: -----BEGIN PRIVATE KEY-----\\nMIIB", "key: (removed)"),
            // None of these is one.
            (
                "password: {secretKeyRef: {name: bgp, key: tor}}",
                "password: {secretKeyRef: {name: bgp, key: tor}}",
            ),
            (
                r#"{"password":{"secretKeyRef":{"name":"bgp","key":"tor"}}}"#,
                r#"{"password":{"secretKeyRef":{"name":"bgp","key":"tor"}}}"#,
            ),
            (
                "etcdKeyFile: /etc/margay/client.key",
                "etcdKeyFile: /etc/margay/client.key",
            ),
            (
                "secrets_dir: /etc/margay/secrets",
                "secrets_dir: /etc/margay/secrets",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            ),
            (
                "10.0.0.1 via 192.0.2.1 dev eth0 proto 77",
                "10.0.0.1 via 192.0.2.1 dev eth0 proto 77",
            ),
            ("http://a:2379,http://b:2379", "http://a:2379,http://b:2379"),
        ] {
            assert_eq!(redact(text), clean);
        }
    }
}
