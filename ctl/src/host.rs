//! This host, as its files and programs show it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// How long a program may take that only shows something.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A host; another folder than `/` is taken for its root in tests.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose files are below `root`.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether its programs are those of this machine.
    pub(crate) fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a file of the host is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file, bytes that are none replaced.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of a file that is compressed.
    pub(crate) fn read_gz(&self, path: &str) -> Option<String> {
        let file = std::fs::File::open(self.path(path)).ok()?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(file)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a folder, in order.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Whether a program is where programs are.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        let folders = [
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
            "/usr/local/sbin",
            "/usr/local/bin",
        ];
        folders
            .iter()
            .any(|folder| self.exists(&format!("{folder}/{name}")))
    }

    /// What a program prints, errors included.
    pub(crate) async fn run(&self, words: &[&str]) -> Result<String, String> {
        let Some((program, arguments)) = words.split_first() else {
            return Err("no program".to_owned());
        };
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
        let running = Command::new(program)
            .args(arguments)
            .env("PATH", path)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(TIMEOUT, running).await {
            Err(_elapsed) => Err(format!("{program}: no end within {} s", TIMEOUT.as_secs())),
            Ok(Err(error)) => Err(format!("{program}: {error}")),
            Ok(Ok(output)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let shown = text(&output.stdout) + &text(&output.stderr);
                if output.status.success() {
                    Ok(shown)
                } else {
                    Err(format!("{shown}{program}: {}", output.status))
                }
            }
        }
    }

    /// Processes by number and name.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let numbers = self
            .names("/proc")
            .into_iter()
            .filter_map(|name| name.parse::<u32>().ok());
        let named = numbers.filter_map(|pid| {
            let name = self.read(&format!("/proc/{pid}/comm"))?;
            Some((pid, name.trim().to_owned()))
        });
        named.collect()
    }

    /// The process that has a socket open, by the socket's inode.
    pub(crate) fn holder(&self, inode: &str) -> Option<(u32, String)> {
        let wanted = PathBuf::from(format!("socket:[{inode}]"));
        self.processes().into_iter().find(|(pid, _)| {
            let folder = self.path(&format!("/proc/{pid}/fd"));
            let open = std::fs::read_dir(folder).into_iter().flatten().flatten();
            open.map(|entry| std::fs::read_link(entry.path()))
                .any(|target| {
                    target
                        .as_deref()
                        .is_ok_and(|target| target == Path::new(&wanted))
                })
        })
    }
}
