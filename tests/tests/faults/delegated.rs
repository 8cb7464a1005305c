//! The verbs that go on to another IPAM plugin, seen by a plugin that writes down what it was asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::rig::{Answer, NETWORK, POOLS, Rig};

/// Gives everybody the same address, and is not ready when a file says so.
const PLUGIN: &str = r#"#!/bin/sh
dir=$(dirname "$0")
cat > "$dir/config.$CNI_COMMAND"
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$dir/asked"
case $CNI_COMMAND in
  ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.79.0.5/24"}]}' ;;
  STATUS) [ ! -e "$dir/busy" ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"no lease server"}'; exit 1; } ;;
  CHECK) [ ! -e "$dir/busy" ] || { echo '{"cniVersion":"1.1.0","code":11,"msg":"the lease is gone"}'; exit 1; } ;;
  GC) [ ! -e "$dir/busy" ] || { echo '{"cniVersion":"1.1.0","code":11,"msg":"later"}'; exit 1; } ;;
esac
"#;

struct Noted {
    rig: Rig,
    dir: PathBuf,
}

impl Noted {
    fn new() -> Self {
        let rig = Rig::embedded(POOLS);
        let dir = rig.lab.dir().join("plugins");
        fs::create_dir(&dir).unwrap();
        let program = dir.join("noting");
        fs::write(&program, PLUGIN).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        Self { rig, dir }
    }

    fn call(&self, verb: &str, id: &str, netns: Option<&str>, more: &Value) -> Answer {
        let mut config = self.rig.config(NETWORK);
        config["cniVersion"] = "1.1.0".into();
        config["ipam"] = json!({"type": "noting"});
        for (name, value) in more.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        let mut env = vec![
            ("CNI_COMMAND", verb),
            ("CNI_PATH", self.dir.to_str().unwrap()),
        ];
        if !id.is_empty() {
            env.extend([("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")]);
        }
        env.extend(netns.map(|netns| ("CNI_NETNS", netns)));
        self.rig.shim(&env, config.to_string().as_bytes())
    }

    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.dir.join("asked")).unwrap_or_default();
        asked.lines().map(|line| line.trim().to_owned()).collect()
    }
}

#[test]
fn status_and_gc_reach_the_plugin_and_its_refusal_is_ours() {
    let noted = Noted::new();
    let none = json!({});
    assert!(noted.call("STATUS", "", None, &none).ips().is_empty());
    let sandbox = noted.rig.sandbox("a", NETWORK);
    let netns = sandbox.netns.path();
    let added = noted.call("ADD", "a", netns.to_str(), &none);
    assert_eq!(added.json()["ips"][0]["address"], "10.79.0.5/32");

    // The runtime keeps the one container: nothing of ours goes, and the plugin hears the list.
    let list = json!([{"containerID": "a", "ifname": "eth0"}]);
    let kept = json!({"cni.dev/valid-attachments": list});
    assert!(noted.call("GC", "", None, &kept).ips().is_empty());
    assert_eq!(noted.asked(), ["STATUS", "ADD a", "GC"]);
    let config = fs::read_to_string(noted.dir.join("config.GC")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["cni.dev/valid-attachments"], list);
    assert_eq!(config["ipam"]["type"], "noting");

    fs::write(noted.dir.join("busy"), "").unwrap();
    noted
        .call("STATUS", "", None, &none)
        .refused(50, "no lease server");
    noted.call("GC", "", None, &kept).refused(11, "later");
    fs::remove_file(noted.dir.join("busy")).unwrap();

    // What the list does not have goes, address and all.
    let nothing = json!({"cni.dev/valid-attachments": []});
    assert!(noted.call("GC", "", None, &nothing).ips().is_empty());
    assert_eq!(noted.asked()[5..], ["DEL a", "GC"]);
    noted.rig.ensure_exact(&[]);
}

#[test]
fn check_asks_the_plugin_and_its_refusal_is_ours() {
    let noted = Noted::new();
    let sandbox = noted.rig.sandbox("a", NETWORK);
    let path = sandbox.netns.path();
    let added = noted.call("ADD", "a", path.to_str(), &json!({})).json();
    let previous = json!({"prevResult": added});
    let checked = noted.call("CHECK", "a", path.to_str(), &previous);
    assert_eq!((checked.exit, checked.text.as_str()), (0, ""));
    assert_eq!(noted.asked(), ["ADD a", "CHECK a"]);
    let config = fs::read_to_string(noted.dir.join("config.CHECK")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["prevResult"], previous["prevResult"]);
    fs::write(noted.dir.join("busy"), "").unwrap();
    noted
        .call("CHECK", "a", path.to_str(), &previous)
        .refused(11, "the lease is gone");
    noted.call("DEL", "a", path.to_str(), &json!({})).ips();
}

#[test]
fn del_gives_back_by_the_configuration_of_the_add_whatever_its_own_says() {
    let mut noted = Noted::new();
    let sandbox = noted.rig.sandbox("a", NETWORK);
    let path = sandbox.netns.path();
    let mark = json!({"mark": "of the ADD"});
    noted.call("ADD", "a", path.to_str(), &mark).ips();
    // By now the list names us for addresses, and the agent is another one.
    noted.rig.restart(&[]);
    let ours = json!({"ipam": {"type": "margay-ipam"}});
    assert!(
        noted
            .call("DEL", "a", path.to_str(), &ours)
            .ips()
            .is_empty()
    );
    assert_eq!(noted.asked(), ["ADD a", "DEL a"]);
    let config = fs::read_to_string(noted.dir.join("config.DEL")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["mark"], &config["ipam"]["type"]),
        (&mark["mark"], &"noting".into())
    );
    noted.rig.ensure_exact(&[]);
    // Given back once; then there is nothing to give back.
    assert!(
        noted
            .call("DEL", "a", path.to_str(), &ours)
            .ips()
            .is_empty()
    );
    assert_eq!(noted.asked(), ["ADD a", "DEL a"]);
}

/// Killed after the plugin gave an address and before there is an endpoint.
#[test]
fn gc_gives_back_what_an_add_that_was_cut_off_had_from_the_plugin() {
    let mut noted = Noted::new();
    noted.rig.restart(&[("MARGAY_FAULT", "after-txn-and-link")]);
    let sandbox = noted.rig.sandbox("a", NETWORK);
    let path = sandbox.netns.path();
    noted
        .call("ADD", "a", path.to_str(), &json!({}))
        .refused(11, "does not answer");
    noted.rig.restart(&[]);
    let nothing = json!({"cni.dev/valid-attachments": []});
    assert!(noted.call("GC", "", None, &nothing).ips().is_empty());
    assert_eq!(noted.asked(), ["ADD a", "DEL a", "GC"]);
    noted.rig.ensure_exact(&[]);
}

#[test]
fn a_plugin_gets_its_address_back_wherever_the_agent_was_killed() {
    let mut noted = Noted::new();
    let none = json!({});
    for (verb, point, asked) in [
        ("ADD", "before-plugin", vec!["DEL a"]),
        ("ADD", "after-plugin", vec!["ADD a", "DEL a"]),
        ("ADD", "before-reply", vec!["ADD a", "DEL a"]),
        // It hears of it again, and has nothing to do.
        ("DEL", "after-given-back", vec!["ADD a", "DEL a", "DEL a"]),
        ("DEL", "before-reply", vec!["ADD a", "DEL a", "DEL a"]),
    ] {
        let sandbox = noted.rig.sandbox("a", NETWORK);
        let path = sandbox.netns.path();
        let netns = path.to_str();
        if verb == "DEL" {
            noted.call("ADD", "a", netns, &none).ips();
        }
        noted.rig.restart(&[("MARGAY_FAULT", point)]);
        let answer = noted.call(verb, "a", netns, &none);
        noted.rig.ensure_died(point);
        match verb {
            "ADD" => answer.refused(11, "does not answer"),
            _ => assert!(answer.ips().is_empty()),
        }
        noted.rig.restart(&[]);
        if verb == "ADD" {
            assert!(noted.call("DEL", "a", netns, &none).ips().is_empty());
        }
        noted.rig.ensure_exact(&[]);
        let heard = noted.asked();
        assert_eq!(
            heard[..asked.len().min(heard.len())],
            asked[..],
            "{point}: {heard:?}"
        );
        assert_eq!(noted.rig.given(), 0, "{point}");
        fs::remove_file(noted.dir.join("asked")).unwrap();
    }
}
