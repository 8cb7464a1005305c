use proptest::prelude::*;
use serde_json::json;

use super::*;

fn list() -> Value {
    json!({
        "kind": "List",
        "items": [
            {"metadata": {"name": "a", "labels": {"app": "web", "x.io/y": "1"}},
             "spec": {"nets": ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"], "order": 10, "on": true}},
            {"metadata": {"name": "b"}, "spec": {"nets": [], "order": 2.5, "on": false}},
            {"metadata": {"name": "c", "labels": {"app": "db"}}, "spec": {}},
        ],
    })
}

fn shown(template: &str) -> String {
    Template::parse(template).unwrap().render(&list()).unwrap()
}

#[test]
fn constructs_of_the_kubectl_dialect() {
    for (template, text) in [
        ("{.kind}", "List"),
        (".kind", "List"),
        ("$.kind", "List"),
        ("kind={.kind}!", "kind=List!"),
        ("{.items[*].metadata.name}", "a b c"),
        ("{.items.*.metadata.name}", "a b c"),
        ("{$.items[0]['metadata'].name}", "a"),
        ("{.items[-1].metadata.name}", "c"),
        ("{.items[0,2].metadata.name}", "a c"),
        ("{.items[0:2].metadata.name}", "a b"),
        ("{.items[1:].metadata.name}", "b c"),
        ("{.items[:-1].metadata.name}", "a b"),
        ("{.items[::2].metadata.name}", "a c"),
        ("{..name}", "a b c"),
        ("{.items[0]..nets[1]}", "10.1.0.0/16"),
        (
            "{.items[0].metadata['name','labels']}",
            r#"a {"app":"web","x.io/y":"1"}"#,
        ),
        ("{.items[0].metadata.labels.x\\.io/y}", "1"),
        ("{.items[0].metadata.labels['x.io/y']}", "1"),
        (
            "{.items[0].spec.nets}",
            r#"["10.0.0.0/8","10.1.0.0/16","10.2.0.0/16"]"#,
        ),
        ("{.items[?(@.metadata.name=='b')].spec.order}", "2.5"),
        ("{.items[?(@.metadata.name != \"b\")].metadata.name}", "a c"),
        ("{.items[?(@.spec.order > 5)].metadata.name}", "a"),
        ("{.items[?(@.spec.order<=10)].metadata.name}", "a b"),
        ("{.items[?(@.spec.on==true)].metadata.name}", "a"),
        ("{.items[?(@.metadata.labels)].metadata.name}", "a c"),
        (
            "{.items[?(@.metadata.labels.app==\"web\" || @.spec.order==2.5)].metadata.name}",
            "a b",
        ),
        (
            "{.items[?(@.metadata.labels && @.spec.order)].metadata.name}",
            "a",
        ),
        ("{.items[*].nothing.at.all}", ""),
        ("{'quoted {text}'}", "quoted {text}"),
        (
            "{range .items[*]}{.metadata.name}{\"\\t\"}{.spec.order}{\"\\n\"}{end}",
            "a\t10\nb\t2.5\nc\t\n",
        ),
        (
            "{range .items[?(@.spec.nets)]}{.metadata.name}:{range .spec.nets[*]} {@}{end};{end}",
            "a: 10.0.0.0/8 10.1.0.0/16 10.2.0.0/16;b:;",
        ),
        ("{range .items[*]}{$.kind}{end}", "ListListList"),
    ] {
        assert_eq!(shown(template), text, "{template}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    for (template, error) in [
        ("{.a", "no } to {.a"),
        ("{end}", "{end} without {range}"),
        ("{range .items[*]}", "{range} without {end}"),
        ("{.items[0}", "found \"\", allowed: ]"),
        ("{.items[x]}", "allowed: *, an index, a name in quotes, ?("),
        (
            "{.items[?(@.a=~'x')]}",
            "allowed: ), ==, !=, <, <=, >, >=, && or ||",
        ),
        (
            "{.items[?(x)]}",
            "allowed: @.field, a text in quotes, a number, true or false",
        ),
        ("{.items[::0]}", "the step of a slice is at least 1"),
        ("{name}", "allowed: a path such as .metadata.name"),
        ("{.a b}", "allowed: the end"),
    ] {
        let found = Template::parse(template).unwrap_err();
        let error = error.replace("found \"\", ", "");
        assert!(found.contains(&error), "{template}: {found}");
    }
    let beyond = Template::parse("{.items[3].kind}").unwrap();
    assert_eq!(
        beyond.render(&list()).unwrap_err(),
        "index 3 of a list of 3"
    );
}

#[test]
fn a_column_needs_no_dot_and_no_braces() {
    let value = list();
    for path in ["kind", ".kind", "{.kind}", "$.kind"] {
        assert_eq!(Path::parse(path).unwrap().values(&value).unwrap(), ["List"]);
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "[{}\\[\\]().?@$*:,'\"\\\\a-z0-9 =<>&|é-]{0,40}") {
        if let Ok(template) = Template::parse(&text) {
            drop(template.render(&list()));
        }
    }
}
