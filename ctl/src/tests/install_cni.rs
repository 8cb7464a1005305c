//! `node install-cni`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_plugin_is_replaced_and_a_configuration_that_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("plugin"), "new").unwrap();
    fs::create_dir(at("bin")).unwrap();
    fs::write(at("bin/margay-cni"), "old").unwrap();
    let line = format!(
        "node install-cni --bin-dir {} --conf-dir {} --plugin {}",
        at("bin").display(),
        at("net.d").display(),
        at("plugin").display()
    );
    let lab = Lab::new();
    let ran = lab.run(&line);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read_to_string(at("bin/margay-cni")).unwrap(), "new");
    let mode = fs::metadata(at("bin/margay-cni"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    let conflist = fs::read_to_string(at("net.d/10-margay.conflist")).unwrap();
    assert!(conflist.contains("\"margay-cni\""), "{conflist}");

    fs::write(at("net.d/10-margay.conflist"), "{\"type\": \"margay-cni\"}").unwrap();
    let ran = lab.run(&line);
    assert!(ran.out.contains("is there and stays"), "{ran:?}");
    let left = fs::read_dir(at("net.d")).unwrap().count();
    assert_eq!(left, 1);
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    let ran = Lab::new().run("node install-cni --plugin /none/margay-cni");
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("/none/margay-cni: "), "{ran:?}");
}
