//! `node install-cni`: puts the plugin and its configuration where a container runtime looks. For images, which have no
//! shell.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::context::Streams;
use crate::failure::Fatal;

pub(crate) const HELP: &str = "\
Example:
  margayctl node install-cni --bin-dir bin-of-cni --conf-dir net.d --plugin bin/margayctl

A plugin that is there is replaced in one step, so that a runtime that calls it meanwhile finds the old
one or the new one. A configuration of Margay that is there stays as it is.";

/// The configuration that is written where there is none.
const CONFLIST: &str = include_str!("../../../deploy/cni/10-margay.conflist");

/// Its name, and the plugin's.
const CONFLIST_NAME: &str = "10-margay.conflist";
const PLUGIN: &str = "margay-cni";

/// Where the plugin comes with an image and with the package.
const SOURCES: [&str; 2] = ["/opt/cni/bin/margay-cni", "/usr/lib/cni/margay-cni"];

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct InstallCni {
    /// The folder that the runtime runs plugins of
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The folder that it reads configurations of
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The plugin [default: /opt/cni/bin/margay-cni, else /usr/lib/cni/margay-cni]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

/// Writes both.
pub(crate) fn install(args: &InstallCni, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let target = args.bin_dir.join(PLUGIN);
    let sources = SOURCES.iter().map(PathBuf::from);
    let source = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => sources
            .into_iter()
            .find(|source| *source != target && source.is_file())
            .ok_or_else(|| {
                let places = SOURCES.join(", ");
                Fatal::Refused(format!(
                    "the plugin is not at {places}: say where by --plugin"
                ))
            })?,
    };
    let fault = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Fatal::Refused(format!("{path}: {error}"))
    };
    let program = fs::read(&source).map_err(fault(&source))?;
    put(&target, &program, 0o755).map_err(fault(&target))?;
    streams.say(&format!("{}: installed", target.display()))?;
    match ours(&args.conf_dir) {
        Some(there) => streams.say(&format!("{}: is there and stays", there.display())),
        None => {
            let target = args.conf_dir.join(CONFLIST_NAME);
            put(&target, CONFLIST.as_bytes(), 0o644).map_err(fault(&target))?;
            streams.say(&format!("{}: written", target.display()))
        }
    }
}

/// A configuration that names our plugin.
fn ours(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find(|path| {
        let named = path
            .extension()
            .is_some_and(|e| e == "conf" || e == "conflist" || e == "json");
        let quoted = format!("\"{PLUGIN}\"");
        named && fs::read_to_string(path).is_ok_and(|text| text.contains(&quoted))
    })
}

/// Writes a file beside its place and renames it there.
fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".margay")
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
