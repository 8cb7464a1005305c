use proptest::prelude::*;
use serde_json::json;

use super::*;

fn list() -> Value {
    json!({
        "kind": "BGPPeerList",
        "metadata": {"resourceVersion": "7"},
        "items": [
            {"kind": "BGPPeer", "metadata": {"name": "a", "labels": {"rack": "1", "row": "x"}},
             "spec": {"peerIP": "192.0.2.1", "asNumber": 65000, "filters": ["f", "g"]}},
            {"kind": "BGPPeer", "metadata": {"name": "b"},
             "spec": {"peerIP": "192.0.2.2", "asNumber": 65001, "enabled": true}},
        ],
    })
}

fn shown(template: &str) -> String {
    let parsed = Template::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
    let shown = parsed.render(&list(), "64512");
    shown.unwrap_or_else(|error| panic!("{template}: {error}"))
}

#[test]
fn constructs_that_people_use() {
    for (template, text) in [
        ("{{.kind}}", "BGPPeerList"),
        ("{{range .items}}{{.metadata.name}} {{end}}", "a b "),
        // What is written for the established client: a list of what was asked for, Go's field names.
        (
            "{{range .}}{{range .Items}}{{.ObjectMeta.Name}}={{.Spec.PeerIP}} {{end}}{{end}}",
            "a=192.0.2.1 b=192.0.2.2 ",
        ),
        ("{{(index . 0).kind}} {{len .}}", "BGPPeerList 1"),
        (
            "{{range $i, $p := .items}}{{if $i}},{{end}}{{$i}}:{{$p.metadata.name}}{{end}}",
            "0:a,1:b",
        ),
        (
            "{{range $k, $v := (index .items 0).metadata.labels}}{{$k}}={{$v}};{{end}}",
            "rack=1;row=x;",
        ),
        (
            "{{range .items}}{{if .spec.filters}}yes{{else}}no{{end}} {{end}}",
            "yes no ",
        ),
        (
            "{{range .items}}{{if eq .metadata.name \"z\"}}z{{else if eq .metadata.name `b`}}B{{else}}?{{end}}{{end}}",
            "?B",
        ),
        ("{{range .nothing}}x{{else}}none{{end}}", "none"),
        (
            "{{range .items}}{{with .spec.filters}}{{index . 1}}{{end}}{{end}}",
            "g",
        ),
        (
            "{{range .items}}{{if eq .metadata.name \"b\"}}{{continue}}{{end}}{{.metadata.name}}{{end}}",
            "a",
        ),
        ("{{range .items}}{{.metadata.name}}{{break}}{{end}}", "a"),
        ("{{index .items 1 \"metadata\" \"name\"}}", "b"),
        ("{{len .items}} {{len .kind}} {{.items | len}}", "2 11 2"),
        (
            "{{$n := 0}}{{range .items}}{{$n = .spec.asNumber}}{{end}}{{$n}}",
            "65001",
        ),
        (
            "{{range .items}}{{$.kind}} {{end}}",
            "BGPPeerList BGPPeerList ",
        ),
        (
            "{{range .items}}{{printf \"%-4s|%7d|%v|%q|%5.1f%%\\n\" .metadata.name .spec.asNumber .spec.enabled .kind 1.25}}{{end}}",
            "a   |  65000|<no value>|\"BGPPeer\"|  1.2%\nb   |  65001|true|\"BGPPeer\"|  1.2%\n",
        ),
        (
            "{{and 1 0}} {{or 0 \"x\"}} {{not .nothing}} {{ne 1 2}} {{lt 1 2}} {{ge \"b\" \"a\"}}",
            "0 x true true true true",
        ),
        ("{{print 1 2 \"a\" 3}} {{println 1 \"b\"}}", "1 2a3 1 b\n"),
        (
            "{{(index .items 0).spec.filters}} {{(index .items 0).metadata}}",
            "[f g] map[labels:map[rack:1 row:x] name:a]",
        ),
        (
            "{{join (index .items 0).spec.filters \",\"}} {{joinAndTruncate (index .items 0).spec.peerIP \",\" 6}}",
            "f,g 192...",
        ),
        (
            "{{slice .kind 0 3}} {{slice (index .items 0).spec.filters 1}}",
            "BGP [g]",
        ),
        ("{{config \"asnumber\"}}", "64512"),
        ("{{.nothing}} {{.nothing.at.all}}", "<no value> <no value>"),
        (
            "a {{- /* a comment */ -}} b\n{{- range .items }} {{ .metadata.name -}} ! {{- end }}",
            "ab a! b!",
        ),
    ] {
        assert_eq!(shown(template), text, "{template}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    for (template, error) in [
        ("{{.a", "{{ without }}"),
        ("{{if .a}}", "{{if}} without {{end}}"),
        (
            "{{end}}",
            "{{end}} or {{else}} without {{if}}, {{with}} or {{range}}",
        ),
        ("{{break}}", "{{break}} outside of {{range}}"),
        (
            "{{template \"x\"}}",
            "{{template}} is not supported; supported are if, else, with, range",
        ),
        (
            "{{toUpper .a}}",
            "function: found \"toUpper\", allowed: and, config, eq",
        ),
        ("{{.a .b}}", "found two values in a row"),
        ("{{\"a}}", "a text without its closing \""),
        ("{{(.a}}", "( without )"),
        ("{{}}", "found nothing in an action"),
    ] {
        let found = Template::parse(template).unwrap_err();
        assert!(found.starts_with(error), "{template}: {found}");
    }
    for (template, error) in [
        ("{{index .items 2}}", "index: index 2 of a list of 2"),
        (
            "{{.kind.name}}",
            ".name: found \"BGPPeerList\", allowed: an object",
        ),
        ("{{$x}}", "variable $x is not declared"),
        ("{{lt 1 \"a\"}}", "lt: 1 and a cannot be compared"),
        (
            "{{range .kind}}{{end}}",
            "range: found \"BGPPeerList\", allowed: a list or an object",
        ),
        ("{{config \"x\"}}", "config: found \"x\", allowed: asnumber"),
    ] {
        let found = Template::parse(template)
            .unwrap()
            .render(&list(), "")
            .unwrap_err();
        assert_eq!(found, error, "{template}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(
        parts in proptest::collection::vec("(\\{\\{-? ?|-?\\}\\}|end|range|if |else|with |[.$(|=:, ]|index |printf |\"%[0-9.-]{0,3}[sdvq]?\"|items|[a-zé]{1,2}|[0-9])", 0..20)
    ) {
        if let Ok(template) = Template::parse(&parts.concat()) {
            drop(template.render(&list(), "1"));
        }
    }
}
