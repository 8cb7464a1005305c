//! `margay-cni install`: puts the plugin and its configuration where a runtime looks for them.
//!
//! Each file is written aside, flushed and renamed, so that a runtime sees the old one or the new one, whole, also while
//! the old program runs. The program comes first: a configuration is never there without it.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use margay_api::cni::SUPPORTED_VERSIONS;
use serde_json::Value;

const PROGRAM: &str = "margay-cni";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is installed when no list is named: the one that the package has among its examples.
const DEFAULT_LIST: &str = include_str!("../../deploy/cni/10-margay.conflist");

/// What `--help` says.
pub(crate) const USAGE: &str = "\
margay-cni: the CNI plugin of Margay. A container runtime calls it by CNI_COMMAND; people call:

  margay-cni install [--bin-dir DIR] [--conf-dir DIR] [--conf FILE] [--no-conf] [--force]
      Puts this program into the directory of CNI plugins (/opt/cni/bin), and a network configuration
      list into /etc/cni/net.d: FILE, else 10-margay.conflist with one network. Both are replaced
      atomically. A newer plugin, or a list that says something else, is replaced with --force only.

      margay-cni install --bin-dir /usr/lib/cni --no-conf

  margay-cni --version
";

/// What is to be put where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Install {
    bin_dir: PathBuf,
    conf_dir: PathBuf,
    conf: Option<PathBuf>,
    no_conf: bool,
    force: bool,
}

impl Install {
    /// Reads the arguments behind `install`.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut install = Self {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
            conf: None,
            no_conf: false,
            force: false,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut path = || {
                words
                    .next()
                    .map(PathBuf::from)
                    .ok_or(format!("{word} needs a path"))
            };
            match word.as_str() {
                "--bin-dir" => install.bin_dir = path()?,
                "--conf-dir" => install.conf_dir = path()?,
                "--conf" => install.conf = Some(path()?),
                "--no-conf" => install.no_conf = true,
                "--force" => install.force = true,
                other => return Err(format!("unknown argument {other:?}, see margay-cni --help")),
            }
        }
        if install.no_conf && install.conf.is_some() {
            return Err("--conf and --no-conf exclude each other".to_owned());
        }
        Ok(install)
    }

    /// Does it; says what it did, a line each.
    ///
    /// # Errors
    /// Why not, for a person. What was done before stays.
    pub(crate) fn run(&self, own: &Path) -> Result<Vec<String>, String> {
        let mut said = Vec::new();
        // Read before anything changes.
        let list = match self.no_conf {
            true => None,
            false => Some(self.list()?),
        };
        said.push(self.install_program(own)?);
        if let Some((name, text)) = list {
            said.extend(self.missing_plugins(&text));
            said.push(self.install_list(&name, &text)?);
        }
        Ok(said)
    }

    fn install_program(&self, own: &Path) -> Result<String, String> {
        let target = self.bin_dir.join(PROGRAM);
        let shown = target.display();
        if is_same_file(own, &target) {
            return Ok(format!("{shown} is this program, version {VERSION}"));
        }
        if let Some(installed) = version_of(&target)
            && is_newer(&installed, VERSION)
            && !self.force
        {
            return Err(format!(
                "{shown} has version {installed}, newer than this one ({VERSION}): --force replaces it"
            ));
        }
        let bytes = fs::read(own).map_err(|e| format!("cannot read {}: {e}", own.display()))?;
        // Asked before it takes the place of one that works.
        write_whole(&target, &bytes, 0o755, |aside| {
            let answers = answered_versions(aside).map_err(|e| format!("it does not run: {e}"))?;
            match answers == SUPPORTED_VERSIONS {
                true => Ok(()),
                false => Err(format!("it answers for CNI {answers:?}")),
            }
        })?;
        Ok(format!(
            "{shown}: version {VERSION}, CNI {}",
            SUPPORTED_VERSIONS.join(", ")
        ))
    }

    /// The list's file name, and the list.
    fn list(&self) -> Result<(String, String), String> {
        let Some(file) = &self.conf else {
            return Ok(("10-margay.conflist".to_owned(), DEFAULT_LIST.to_owned()));
        };
        let shown = file.display();
        let text = fs::read_to_string(file).map_err(|e| format!("cannot read {shown}: {e}"))?;
        check_list(&text).map_err(|e| format!("{shown}: {e}"))?;
        let name = file.file_name().and_then(OsStr::to_str);
        let name = name.ok_or(format!("{shown} has no file name"))?;
        if !name.ends_with(".conflist") {
            return Err(format!(
                "{shown}: runtimes want the name of a list to end in .conflist"
            ));
        }
        Ok((name.to_owned(), text))
    }

    fn install_list(&self, name: &str, text: &str) -> Result<String, String> {
        let target = self.conf_dir.join(name);
        let shown = target.display();
        match fs::read_to_string(&target) {
            Ok(there) if there == text => return Ok(format!("{shown} is there already")),
            Ok(_) if !self.force => {
                return Ok(format!(
                    "{shown} says something else and is left: --force replaces it"
                ));
            }
            _ => {}
        }
        write_whole(&target, text.as_bytes(), 0o644, |_| Ok(()))?;
        Ok(format!("{shown}: written"))
    }

    /// A word about each plugin of the list that the runtime would not find.
    fn missing_plugins(&self, text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).unwrap_or_default();
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        let kinds = plugins
            .iter()
            .flat_map(|plugin| [&plugin["type"], &plugin["ipam"]["type"]]);
        let kinds = kinds.filter_map(Value::as_str);
        let ours = ["", PROGRAM, "margay-ipam", "calico-ipam"];
        let missing =
            kinds.filter(|kind| !ours.contains(kind) && !self.bin_dir.join(kind).exists());
        missing
            .map(|kind| {
                format!(
                    "warning: the list names {kind}, which is not in {}",
                    self.bin_dir.display()
                )
            })
            .collect()
    }
}

fn check_list(text: &str) -> Result<(), String> {
    let list: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    if list["name"].as_str().is_none_or(str::is_empty) {
        return Err("name is missing".to_owned());
    }
    let plugins = list["plugins"].as_array();
    let has_ours = |plugins: &Vec<Value>| plugins.iter().any(|p| p["type"] == PROGRAM);
    if !plugins.is_some_and(has_ours) {
        return Err(format!(
            "plugins must be a list that has one of type {PROGRAM:?}"
        ));
    }
    let version = list["cniVersion"].as_str().unwrap_or("0.1.0");
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(format!(
            "cniVersion is {version:?}, must be one of {SUPPORTED_VERSIONS:?}"
        ));
    }
    Ok(())
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    identity(a).is_some_and(|a| Some(a) == identity(b))
}

/// None for a file that does not say.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.trim().strip_prefix(PROGRAM)?.trim();
    numbers(version).map(|_| version.to_owned())
}

fn numbers(version: &str) -> Option<Vec<u64>> {
    let release = version.split(['-', '+']).next()?;
    release.split('.').map(|part| part.parse().ok()).collect()
}

fn is_newer(a: &str, than: &str) -> bool {
    matches!((numbers(a), numbers(than)), (Some(a), Some(than)) if a > than)
}

fn answered_versions(program: &Path) -> io::Result<Vec<String>> {
    let output = Command::new(program)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::null())
        .output()?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    let versions = answer["supportedVersions"].as_array().cloned();
    let texts = versions.unwrap_or_default().into_iter();
    Ok(texts
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect())
}

/// All of it or nothing; `check` sees the file before it is in its place.
fn write_whole(
    target: &Path,
    bytes: &[u8],
    mode: u32,
    check: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let dir = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Hidden, and of no kind that a runtime reads.
        let aside = dir.join(format!(".{name}.{}", std::process::id()));
        let mut file = File::create(&aside)?;
        let written = file
            .write_all(bytes)
            .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
            .and_then(|()| file.sync_all());
        drop(file);
        let placed = written
            .and_then(|()| check(&aside).map_err(io::Error::other))
            .and_then(|()| fs::rename(&aside, target));
        if placed.is_err() {
            drop(fs::remove_file(&aside));
        }
        placed?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| format!("cannot write {}: {e}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Install, String> {
        Install::parse(line.split_whitespace().map(str::to_owned))
    }

    fn in_dir(dir: &Path, more: &str) -> Install {
        let (bin, conf) = (dir.join("bin"), dir.join("conf"));
        words(&format!(
            "--bin-dir {} --conf-dir {} {more}",
            bin.display(),
            conf.display()
        ))
        .unwrap()
    }

    #[test]
    fn arguments_are_read_and_unknown_ones_named() {
        assert_eq!(words("").unwrap().bin_dir, Path::new("/opt/cni/bin"));
        assert!(words("--frob").unwrap_err().contains("--frob"));
        assert!(words("--conf").unwrap_err().contains("needs a path"));
        assert!(words("--conf a --no-conf").unwrap_err().contains("exclude"));
    }

    #[test]
    fn a_list_is_written_once_and_one_that_differs_is_left_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let install = in_dir(dir.path(), "");
        let (name, text) = install.list().unwrap();
        check_list(&text).unwrap();
        assert!(
            install
                .install_list(&name, &text)
                .unwrap()
                .ends_with("written")
        );
        assert!(
            install
                .install_list(&name, &text)
                .unwrap()
                .contains("already")
        );
        let file = dir.path().join("conf").join(&name);
        fs::write(&file, "{}").unwrap();
        assert!(
            install
                .install_list(&name, &text)
                .unwrap()
                .contains("--force")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
        in_dir(dir.path(), "--force")
            .install_list(&name, &text)
            .unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert_eq!(fs::read_dir(dir.path().join("conf")).unwrap().count(), 1);
    }

    #[test]
    fn a_list_that_no_runtime_could_use_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.conflist");
        for (text, needle) in [
            ("{", "not JSON"),
            (r#"{"plugins": []}"#, "name is missing"),
            (
                r#"{"name": "n", "plugins": [{"type": "bridge"}]}"#,
                "one of type",
            ),
            (
                r#"{"name": "n", "cniVersion": "7.0.0", "plugins": [{"type": "margay-cni"}]}"#,
                "cniVersion is \"7.0.0\"",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let install = in_dir(dir.path(), &format!("--conf {}", file.display()));
            let error = install.run(Path::new("/proc/self/exe")).unwrap_err();
            assert!(error.contains(needle), "{error}");
            assert!(!dir.path().join("bin").exists());
        }
    }

    #[test]
    fn plugins_that_the_runtime_would_miss_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let list = r#"{"plugins": [{"type": "margay-cni", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}"#;
        let missing = in_dir(dir.path(), "").missing_plugins(list);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].contains("host-local") && missing[1].contains("portmap"));
    }

    /// A program that says it is of this version, and speaks what it is told to.
    fn program(path: &Path, version: &str, spoken: &[&str]) {
        let answer = serde_json::json!({"supportedVersions": spoken});
        let script = format!(
            "#!/bin/sh\ncase $1 in --version) echo '{PROGRAM} {version}';; *) echo '{answer}';; esac\n"
        );
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, script).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_newer_program_is_kept_and_one_that_does_not_work_never_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (own, there) = (dir.path().join("own"), dir.path().join("bin").join(PROGRAM));
        let install = in_dir(dir.path(), "--no-conf");
        let now = || fs::read_to_string(&there).unwrap();
        program(&there, "99.0.0", &[]);
        let newer = now();
        program(&own, VERSION, &SUPPORTED_VERSIONS);
        let error = install.run(&own).unwrap_err();
        assert!(error.contains("99.0.0, newer than this one"), "{error}");
        assert_eq!(now(), newer);
        for spoken in [&["0.1.0"][..], &[]] {
            program(&own, VERSION, spoken);
            let error = in_dir(dir.path(), "--no-conf --force")
                .run(&own)
                .unwrap_err();
            assert!(error.contains("it answers for CNI"), "{error}");
            assert_eq!(now(), newer);
        }
        program(&own, VERSION, &SUPPORTED_VERSIONS);
        in_dir(dir.path(), "--no-conf --force").run(&own).unwrap();
        assert_eq!(now(), fs::read_to_string(&own).unwrap());
        program(&there, "0.0.1", &[]);
        install.run(&own).unwrap();
        assert_eq!(now(), fs::read_to_string(&own).unwrap());
        // Nothing is left aside.
        assert_eq!(fs::read_dir(dir.path().join("bin")).unwrap().count(), 1);
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(is_newer("0.10.0", "0.9.1"));
        assert!(!is_newer("0.9.1", "0.9.1"));
        assert!(!is_newer("nonsense", "0.9.1"));
    }
}
