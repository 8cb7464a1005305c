//! `docs/reference/configuration.md`, which is written from the types: names and words from the source, defaults from
//! the values.

use std::fmt::Write;

use margay_model::kind::Kind;
use margay_model::settings::parameters;

use super::*;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/reference/configuration.md"
);

const HEAD: &str = "\
# Configuration

Written from the types, by `UPDATE_GOLDEN=1 cargo test -p margay-agent reference`. `margayctl config show NODE` prints
every parameter as it holds on a host, and where that is from.

## The agent's file

`margayd --config FILE` (or `MARGAY_CONFIG`), in YAML, `/etc/margay/margayd.yaml` with the package. Every field may be
absent. It is read at start and by `systemctl reload margayd`; a name that is not below is an error.
";

/// A field, with what its comment says.
struct Field {
    name: String,
    doc: String,
}

/// The public fields of a struct of plain data, as its source has them.
fn fields(source: &str, name: &str) -> Vec<Field> {
    let start = format!("struct {name} {{");
    let body = source.split_once(&start).expect("the struct is there").1;
    let body = body.split_once("\n}").expect("it ends").0;
    let (mut fields, mut doc, mut renamed, mut skip) = (Vec::new(), String::new(), None, false);
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc += text;
        } else if let Some(attribute) = line.strip_prefix("#[serde(") {
            skip |= attribute.starts_with("skip)");
            let quoted = attribute.strip_prefix("rename = \"");
            renamed = quoted
                .and_then(|rest| rest.split_once('"'))
                .map(|(name, _)| name.to_owned())
                .or(renamed);
        } else if let Some((declared, _)) = line.split_once(": ") {
            let name = declared.rsplit(' ').next().expect("a name");
            let name = renamed.take().unwrap_or_else(|| name.to_owned());
            let doc = std::mem::take(&mut doc).trim().replace('|', "\\|");
            if !std::mem::take(&mut skip) {
                fields.push(Field { name, doc });
            }
        }
    }
    fields
}

/// The words of a default, from what `Debug` says of it.
fn words(debug: &str) -> String {
    let inner = debug
        .strip_prefix("Some(")
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(debug);
    match inner {
        "None" | "{}" | "[]" => "(none)".to_owned(),
        // A variant goes by its name in lower case.
        other if other.starts_with(|c: char| c.is_ascii_uppercase()) => {
            format!("`{}`", other.to_lowercase())
        }
        other => format!("`{}`", other.trim_matches('"')),
    }
}

/// Defaults by name, from what `Debug` says of the whole: a line each.
fn default_of(debug: &str, field: &str) -> String {
    let key = format!("    {field}: ");
    let mut lines = debug.lines();
    let line = lines.find_map(|line| line.strip_prefix(&key));
    let line = line.unwrap_or("None").trim_end_matches(',');
    // What is longer than a line is of several values, or `Some` of one.
    match line {
        "Some(" | "[" => words(lines.next().unwrap_or("None").trim().trim_end_matches(',')),
        line => words(line),
    }
}

fn table(text: &mut String, source: &str, name: &str, debug: &str, except: &[&str]) {
    writeln!(text, "\n| field | default | |\n|---|---|---|").unwrap();
    for field in fields(source, name) {
        if except.contains(&field.name.as_str()) {
            continue;
        }
        // The one whose name in the file is another than in the type.
        let declared = if field.name == "type" {
            "kind"
        } else {
            &field.name
        };
        let default = default_of(debug, declared);
        writeln!(text, "| `{}` | {default} | {} |", field.name, field.doc).unwrap();
    }
}

fn resource(text: &mut String, kind: Kind) {
    writeln!(
        text,
        "\n| parameter | default | acted upon |\n|---|---|---|"
    )
    .unwrap();
    for parameter in parameters(kind) {
        let (default, used) = match parameter.default {
            Some("(none)") => ("(none)".to_owned(), "yes"),
            Some(default) => (format!("`{default}`"), "yes"),
            None => ("".to_owned(), "no: kept for others"),
        };
        writeln!(text, "| `{}` | {default} | {used} |", parameter.name).unwrap();
    }
}

fn reference() -> String {
    let config = Config::default();
    let mut text = HEAD.to_owned();
    let agent = include_str!("../config.rs");
    table(
        &mut text,
        agent,
        "Config",
        &format!("{config:#?}"),
        &["datastore", "flows"],
    );
    text += "\n### `datastore`\n\nThe environment wins: `DATASTORE_TYPE`, `ETCD_ENDPOINTS`, `ETCD_DISCOVERY_SRV`, \
             `ETCD_CA_CERT_FILE`,\n`ETCD_CERT_FILE`, `ETCD_KEY_FILE`, `ETCD_USERNAME`, `ETCD_PASSWORD`, \
             `ETCD_REQUEST_TIMEOUT_MS`, each also with\n`CALICO_` before it.\n";
    let datastore = include_str!("../../../datastore/src/config.rs");
    let debug = format!("{:#?}", config.datastore);
    table(&mut text, datastore, "DatastoreConfig", &debug, &[]);
    text += "\n### `metrics_tls`\n";
    let tls = include_str!("../http/tls.rs");
    table(&mut text, tls, "TlsFiles", "", &[]);
    text += "\n### `flows`\n";
    let flows = include_str!("../flows/mod.rs");
    let debug = format!("{:#?}", config.flows);
    table(&mut text, flows, "FlowsConfig", &debug, &[]);
    text += "\n### `docker`\n";
    let docker = include_str!("../docker/mod.rs");
    let debug = format!("{:#?}", DockerConfig::default());
    table(&mut text, docker, "DockerConfig", &debug, &[]);
    text += "\n### `dns`\n";
    let dns = include_str!("../dns/mod.rs");
    let debug = format!("{:#?}", DnsConfig::default());
    table(&mut text, dns, "DnsConfig", &debug, &[]);
    text += "\n### `bmp`, each\n";
    let bmp = include_str!("../../../speaker/src/bmp/mod.rs");
    let one = BmpConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let debug = format!("{one:#?}").replace("    collector: 127.0.0.1:1,\n", "");
    table(&mut text, bmp, "BmpConfig", &debug, &[]);
    text += "\n## FelixConfiguration\n\nOf a host, the first of these that says anything: the agent's environment \
             (`FELIX_LOGPREFIX`), `felix` in its file, the\nobject `node.NAME`, objects whose `nodeSelector` selects the \
             host, the object `default`, the default here.\n";
    resource(&mut text, Kind::FelixConfiguration);
    text += "\n## BGPConfiguration\n\nThe object `node.NAME`, then `default`.\n";
    resource(&mut text, Kind::BgpConfiguration);
    text
}

#[test]
fn the_reference_says_what_the_types_say() {
    let text = reference();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(FILE, &text).unwrap();
    }
    let stored = fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        stored == text,
        "docs/reference/configuration.md is old: UPDATE_GOLDEN=1 cargo test -p margay-agent reference"
    );
}

#[test]
fn every_field_of_the_file_has_words_and_those_with_values_their_default() {
    let text = reference();
    let known = fields(include_str!("../config.rs"), "Config");
    assert!(known.len() > 15, "{}", known.len());
    assert!(known.iter().all(|field| !field.doc.is_empty()));
    assert!(known.iter().all(|field| field.name != "felix_env"));
    for line in [
        "| `audit_interval_secs` | `60` |",
        "| `metrics_listen` | `127.0.0.1:9091` |",
        "| `socket` | `/run/margay/margayd.sock` |",
        "| `type` | `etcdv3` |",
        "| `endpoints` | `http://127.0.0.1:2379` |",
        "| `request_timeout_ms` | `5000` |",
        "| `node_ip` | (none) |",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
