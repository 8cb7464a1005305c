//! An image without a registry: busybox, a web server's page, and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use margay_lab::run;
use serde_json::{Value, json};

/// What the image is called.
pub(crate) const IMAGE: &str = "docker.io/margay/busy:1";

/// What the web server of each container says.
pub(crate) const PAGE: &str = "served";

/// The server that each container runs.
pub(crate) const SERVER: [&str; 6] = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"];

/// The root of a file system.
pub(crate) fn root(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    for folder in ["bin", "www", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
        .context("busybox-static is not installed")?;
    for name in ["sh", "ping", "wget", "httpd", "sleep"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(root.join("www/index.html"), PAGE)?;
    Ok(root)
}

/// The layer alone, for `podman import`.
pub(crate) fn layer(dir: &Path) -> Result<PathBuf> {
    let root = root(dir)?;
    let layer = dir.join("layer.tar");
    run(Command::new("tar")
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(&layer)
        .arg("-C")
        .arg(&root)
        .arg("."))?;
    Ok(layer)
}

/// An archive in the OCI layout.
pub(crate) fn archive(dir: &Path) -> Result<PathBuf> {
    let layout = dir.join("layout");
    let layer = blob(&layout, &fs::read(layer(dir)?)?)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    // A pod's sandbox runs it as well, and has nothing to do.
    let entry = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "86400"]});
    let config = json!({
        "architecture": architecture, "os": "linux", "config": entry,
        "rootfs": {"type": "layers", "diff_ids": [layer.0]},
    });
    let config = blob(&layout, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(&config, "config.v1+json"),
        "layers": [descriptor(&layer, "layer.v1.tar")],
    });
    let manifest = blob(&layout, manifest.to_string().as_bytes())?;
    let mut listed = descriptor(&manifest, "manifest.v1+json");
    listed["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [listed]});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )?;
    let archive = dir.join("image.tar");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&layout)
        .arg("."))?;
    Ok(archive)
}

/// Digest and size.
type Blob = (String, usize);

fn blob(layout: &Path, bytes: &[u8]) -> Result<Blob> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let aside = layout.join("aside");
    fs::write(&aside, bytes)?;
    let sum = run(Command::new("sha256sum").arg(&aside))?;
    let hex = sum.split_whitespace().next().context("no digest")?;
    fs::rename(&aside, blobs.join(hex))?;
    Ok((format!("sha256:{hex}"), bytes.len()))
}

fn descriptor((digest, size): &Blob, kind: &str) -> Value {
    json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size})
}
