//! What is shipped beside the programs: image, manifests, chart, bill of materials, licences.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_margayctl");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The files of a tar, by name.
fn unpack(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(name.trim_start_matches("./").to_owned(), content);
    }
    files
}

/// Programs that say what the script asks them, in place of ours: what is packed is not what is tested.
fn programs(folder: &Path) {
    for name in ["margayd", "margayctl", "margay-cni"] {
        fs::copy("/bin/true", folder.join(name)).unwrap();
    }
    let script = "#!/bin/sh\necho margayd 9.8.7\n";
    fs::write(folder.join("margayd"), script).unwrap();
}

fn image(folder: &Path, out: &str) -> Vec<u8> {
    let mut command = Command::new(root().join("scripts/image.sh"));
    command.arg(folder).arg(folder.join(out));
    command
        .env("ALLOW_DYNAMIC", "1")
        .env("SOURCE_DATE_EPOCH", "1700000000");
    let path = run(&mut command);
    fs::read(path.trim()).unwrap()
}

#[test]
fn the_image_is_whole_and_the_same_programs_make_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    let first = image(dir.path(), "a");
    assert!(first == image(dir.path(), "b"), "two builds differ");
    let files = unpack(&first);
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    let blob = |digest: &Value| {
        let name = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = &files[&format!("blobs/sha256/{name}")];
        let file = dir.path().join("blob");
        fs::write(&file, content).unwrap();
        let sum = run(Command::new("sha256sum").arg(&file));
        assert!(sum.starts_with(name), "{name}: {sum}");
        content.clone()
    };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json("index.json");
    let manifest = &index["manifests"][0];
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.ref.name"],
        "margay:9.8.7"
    );
    let manifest: Value = serde_json::from_slice(&blob(&manifest["digest"])).unwrap();
    let config: Value = serde_json::from_slice(&blob(&manifest["config"]["digest"])).unwrap();
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/margayd");
    let layer = blob(&manifest["layers"][0]["digest"]);
    let size = manifest["layers"][0]["size"].as_u64();
    assert_eq!(size, Some(layer.len() as u64));
    let mut plain = Vec::new();
    GzDecoder::new(&*layer).read_to_end(&mut plain).unwrap();
    let file = dir.path().join("layer");
    fs::write(&file, &plain).unwrap();
    let sum = run(Command::new("sha256sum").arg(&file));
    let digest = format!("sha256:{}", sum.split(' ').next().unwrap());
    assert_eq!(config["rootfs"]["diff_ids"][0], digest.as_str());
    let packed = unpack(&plain);
    for name in [
        "usr/bin/margayd",
        "usr/bin/margayctl",
        "opt/cni/bin/margay-cni",
        "usr/share/margay/cni/10-margay.conflist",
        "usr/share/doc/margay/LICENSE",
    ] {
        assert!(!packed[name].is_empty(), "{name}");
    }
}

#[test]
fn an_image_of_programs_that_need_libraries_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    let mut command = Command::new(root().join("scripts/image.sh"));
    let output = command.arg(dir.path()).arg(dir.path()).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("is not static"), "{error}");
}

/// The documents of a file.
fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    let all = serde_norway::Deserializer::from_str(text);
    all.map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// What a DaemonSet must have to run an agent, and that it names nothing that is not there.
fn check_daemonset(all: &[Value]) {
    let of = |kind: &'static str| all.iter().filter(move |d| d["kind"] == kind);
    let daemonset = of("DaemonSet").next().unwrap();
    let pod = &daemonset["spec"]["template"]["spec"];
    let labels = &daemonset["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&daemonset["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(
        (&pod["hostNetwork"], &pod["hostPID"]),
        (&true.into(), &true.into())
    );
    let named = |list: &Value| -> BTreeSet<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let volumes = named(&pod["volumes"]);
    let containers = ["initContainers", "containers"].map(|of| pod[of].as_array().unwrap());
    let mut mounted = BTreeSet::new();
    for container in containers.into_iter().flatten() {
        mounted.extend(named(&container["volumeMounts"]));
        assert_eq!(
            container["securityContext"]["capabilities"]["drop"][0],
            "ALL"
        );
    }
    assert_eq!(mounted, volumes);
    let agent = &pod["containers"][0];
    let unit = fs::read_to_string(root().join("deploy/systemd/margayd.service")).unwrap();
    let bounds = unit
        .lines()
        .find_map(|l| l.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let unit: BTreeSet<_> = bounds
        .split(' ')
        .map(|cap| cap.trim_start_matches("CAP_"))
        .collect();
    let added = agent["securityContext"]["capabilities"]["add"]
        .as_array()
        .unwrap();
    let added: BTreeSet<_> = added.iter().map(|cap| cap.as_str().unwrap()).collect();
    assert_eq!(added, unit, "the unit's capabilities");
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(agent[probe]["httpGet"]["port"], 9091);
    }
    // The command of the init container is one that there is.
    let words = pod["initContainers"][0]["command"].as_array().unwrap();
    let words: Vec<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words[0], "/usr/bin/margayctl");
    run(Command::new(PROGRAM).args(&words[1..]).arg("--help"));
    // Secrets and maps are those of the same file.
    let names: BTreeSet<_> = ["ConfigMap", "Secret"]
        .into_iter()
        .flat_map(of)
        .map(|d| d["metadata"]["name"].as_str().unwrap())
        .collect();
    for volume in pod["volumes"].as_array().unwrap() {
        for name in [
            &volume["configMap"]["name"],
            &volume["secret"]["secretName"],
        ] {
            assert!(
                name.is_null() || names.contains(name.as_str().unwrap()),
                "{volume}"
            );
        }
    }
}

#[test]
fn the_manifests_for_kubernetes_fit_together() {
    let file = root().join("deploy/kubernetes/margay.yaml");
    check_schema(&file);
    let all = documents(&fs::read_to_string(file).unwrap());
    check_daemonset(&all);
    let namespaced = all.iter().filter(|d| d["kind"] != "Namespace");
    for document in namespaced {
        assert_eq!(document["metadata"]["namespace"], "margay-system");
    }
}

/// A program that `scripts/tools.sh` has fetched, or that is on the PATH.
fn tool(name: &str) -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let fetched = target.join("tools/bin").join(name);
    let found = match fetched.exists() {
        true => fetched,
        false => name.into(),
    };
    let mut command = Command::new(found);
    let output = command.arg("--help").output();
    assert!(
        output.is_ok(),
        "{name} is missing: scripts/setup.sh test fetches it"
    );
    Command::new(command.get_program())
}

/// The resources are what Kubernetes knows, of an old release and a new one, and have no field that it does not.
fn check_schema(file: &Path) {
    for version in ["1.25", "1.35"] {
        let mut command = tool("kubernetes-validate");
        run(command
            .args(["--strict", "--quiet", "-k", version])
            .arg(file));
    }
}

#[test]
fn the_chart_renders_to_manifests_that_fit_together() {
    let chart = root().join("deploy/helm/margay");
    let about = fs::read_to_string(chart.join("Chart.yaml")).unwrap();
    assert_eq!(
        documents(&about)[0]["appVersion"],
        env!("CARGO_PKG_VERSION")
    );
    let lint = run(tool("helm").args(["lint", "--strict"]).arg(&chart));
    assert!(lint.contains("0 chart(s) failed"), "{lint}");
    let dir = tempfile::tempdir().unwrap();
    let rendered = |more: &[&str]| -> Vec<Value> {
        let mut command = tool("helm");
        command.args(["template", "margay"]).arg(&chart);
        let text = run(command.args(["--namespace", "margay-system"]).args(more));
        let file = dir.path().join("rendered.yaml");
        fs::write(&file, &text).unwrap();
        check_schema(&file);
        documents(&text)
    };
    let all = rendered(&[]);
    check_daemonset(&all);
    let map = all.iter().find(|d| d["kind"] == "ConfigMap").unwrap();
    let config = map["data"]["margayd.yaml"].as_str().unwrap();
    let config = &documents(config)[0];
    assert_eq!(
        config["datastore"]["endpoints"][0],
        "https://192.0.2.1:2379"
    );
    assert_eq!(config["policy_backend"], "nftables");
    // With a Secret of somebody else none is made.
    let all = rendered(&["--set", "etcd.existingSecret=theirs"]);
    assert!(all.iter().all(|document| document["kind"] != "Secret"));
    let daemonset = all.iter().find(|d| d["kind"] == "DaemonSet").unwrap();
    assert!(
        daemonset.to_string().contains("\"secretName\":\"theirs\""),
        "{daemonset}"
    );
}

#[test]
fn the_book_installs_the_chart_by_values_that_it_has() {
    let page = fs::read_to_string(root().join("docs/install/kubernetes.md")).unwrap();
    let (_, rest) = page.split_once("```sh\n").unwrap();
    let (commands, _) = rest.split_once("```").unwrap();
    // All of it but the asking of a cluster.
    assert!(commands.contains("helm install "), "{commands}");
    let commands = commands.replace("helm install ", "\"$HELM\" template ");
    let mut command = Command::new("sh");
    let helm = tool("helm").get_program().to_owned();
    command.args(["-ec", &commands]).env("HELM", helm);
    let all = documents(&run(command.current_dir(root())));
    assert!(all.iter().all(|document| document["kind"] != "Secret"));
    let daemonset = all.iter().find(|d| d["kind"] == "DaemonSet").unwrap();
    assert_eq!(daemonset["metadata"]["namespace"], "margay-system");
    let secret = "\"secretName\":\"margay-etcd\"";
    assert!(daemonset.to_string().contains(secret), "{daemonset}");
    let map = all.iter().find(|d| d["kind"] == "ConfigMap").unwrap();
    let config = map["data"]["margayd.yaml"].as_str().unwrap();
    assert!(config.contains("https://192.0.2.1:2379"), "{config}");
}

#[test]
fn the_bill_of_materials_has_what_is_in_the_programs_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("margay.cdx.json");
    run(Command::new(root().join("scripts/sbom.sh")).arg(&file));
    let bill: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    let components = bill["components"].as_array().unwrap();
    let names: BTreeSet<_> = components
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    for name in ["tokio", "clap", "serde", "rtnetlink"] {
        assert!(names.contains(name), "{name} is missing");
    }
    for name in ["criterion", "proptest", "margay-model"] {
        assert!(!names.contains(name), "{name} is in no program, or ours");
    }
}

/// The licences of `deny.toml`.
fn allowed() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let (_, rest) = text.split_once("allow = [").unwrap();
    let list = rest.split(']').next().unwrap();
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Whether an expression of SPDX can be met by what is allowed: OR by one side, AND by all.
fn may_be(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
    if expression.contains('(') {
        // In the few that have them, what is in brackets are alternatives of one part of a conjunction.
        return expression.split(" AND ").all(|part| {
            let part = part.replace(['(', ')'], " ");
            part.split(" OR ").any(|name| allowed.contains(name.trim()))
        });
    }
    flat.split(" OR ").any(|part| {
        part.split(" AND ")
            .all(|name| allowed.contains(name.trim()))
    })
}

#[test]
fn every_licence_is_on_the_list() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    let metadata: Value = serde_json::from_str(&run(command.current_dir(root()))).unwrap();
    let allowed = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    let wrong: Vec<_> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(|l| may_be(l, &allowed)))
        .map(|p| format!("{} {}: {}", p["name"], p["version"], p["license"]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let elsewhere: Vec<_> = packages
        .iter()
        .filter_map(|p| p["source"].as_str())
        .filter(|source| *source != "registry+https://github.com/rust-lang/crates.io-index")
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    // What cargo-deny calls a wildcard: any version of a crate of others would do.
    let ours = packages.iter().filter(|p| p["source"].is_null());
    let wanted = ours.flat_map(|p| p["dependencies"].as_array().unwrap());
    let any: Vec<_> = wanted
        .filter(|d| d["req"] == "*" && d["path"].is_null())
        .map(|d| &d["name"])
        .collect();
    assert!(any.is_empty(), "{any:?}");
}
