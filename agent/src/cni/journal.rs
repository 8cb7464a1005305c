//! The journal of DELs that could not be carried out: written by the shim while the agent was down, and
//! by the agent while the datastore was. One file a container and interface; replayed until it works.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use margay_api::cni::CniRequest;
use tracing::{info, warn};

use crate::fault;

/// A file that is written aside is renamed within moments. One that is older is of a writer that was killed.
const ASIDE_FOR: Duration = Duration::from_secs(60);

/// A folder of journalled DELs.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
}

/// One entry and the file it stands in.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) request: CniRequest,
    path: PathBuf,
}

impl Journal {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Another journal, in a folder of this name inside of this one's.
    pub(crate) fn beside(&self, name: &str) -> Self {
        Self::new(self.dir.join(name))
    }

    /// The entry for the container and interface of this call.
    pub(crate) fn find(&self, request: &CniRequest) -> Option<CniRequest> {
        let path = self.dir.join(request.journal_file());
        path.exists()
            .then(|| read(&path))
            .flatten()
            .map(|entry| entry.request)
    }

    /// All entries. An unreadable one is moved aside, so that it is told once and kept for a look; what a writer that was
    /// killed has left is removed.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let Ok(dir) = fs::read_dir(&self.dir) else {
            // No folder, no entries: the shim makes it when it has something to write.
            return Vec::new();
        };
        let (aside, mut paths): (Vec<PathBuf>, Vec<PathBuf>) = dir
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .partition(|path| is_hidden(path));
        for path in aside.iter().filter(|path| is_forsaken(path)) {
            info!(path = %path.display(), "half a journal entry, its writer is gone");
            remove(path);
        }
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        paths.sort();
        paths.into_iter().filter_map(|path| read(&path)).collect()
    }

    /// Keeps a DEL for later. Durable when it returns.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write(&self, request: &CniRequest) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let aside = self.dir.join(format!(".{}.agent", request.journal_file()));
        let file = fs::File::create(&aside)?;
        serde_json::to_writer(&file, request)?;
        file.sync_all()?;
        fault::point("journal-aside");
        fs::rename(&aside, self.dir.join(request.journal_file()))?;
        fs::File::open(&self.dir)?.sync_all()?;
        fault::point("journal-written");
        Ok(())
    }

    /// Forgets any entry for the container and interface of this call: a later ADD supersedes it.
    pub(crate) fn forget(&self, request: &CniRequest) {
        remove(&self.dir.join(request.journal_file()));
    }
}

impl Entry {
    /// Whether the journal still holds it.
    pub(crate) fn is_current(&self) -> bool {
        self.path.exists()
    }

    /// The DEL was carried out.
    pub(crate) fn done(self) {
        remove(&self.path);
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with('.'))
}

fn is_forsaken(path: &Path) -> bool {
    let written = fs::metadata(path).and_then(|found| found.modified());
    // A clock that was set back makes it younger than now; a later look sees it older.
    let age = written.ok().and_then(|written| written.elapsed().ok());
    age.is_some_and(|age| age > ASIDE_FOR)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), error = %e, "cannot remove a journal entry");
        }
        _ => {}
    }
}

fn read(path: &Path) -> Option<Entry> {
    let parsed = fs::read(path).and_then(|bytes| {
        let request: CniRequest = serde_json::from_slice(&bytes)?;
        match request.check_environment() {
            Ok(()) if request.command == "DEL" => Ok(request),
            Ok(()) => Err(io::Error::other(format!("{} is not DEL", request.command))),
            Err(e) => Err(io::Error::other(e.msg)),
        }
    });
    match parsed {
        Ok(request) => Some(Entry {
            request,
            path: path.to_owned(),
        }),
        Err(e) => {
            warn!(path = %path.display(), error = %e, "journal entry unreadable, kept as .bad");
            if let Err(e) = fs::rename(path, path.with_extension("bad")) {
                warn!(path = %path.display(), error = %e, "cannot move a journal entry aside");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn del(id: &str) -> CniRequest {
        CniRequest {
            command: "DEL".into(),
            container_id: id.into(),
            ifname: "eth0".into(),
            config: "{}".into(),
            ..CniRequest::default()
        }
    }

    #[test]
    fn entries_come_back_until_they_are_done() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().join("made-when-needed"));
        assert!(journal.entries().is_empty());
        journal.write(&del("a")).unwrap();
        journal.write(&del("b")).unwrap();
        let mut entries = journal.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].request, del("a"));
        assert!(entries[0].is_current());
        entries.remove(0).done();
        assert_eq!(journal.entries().len(), 1);
        journal.forget(&del("b"));
        assert!(!entries[0].is_current());
        assert!(journal.entries().is_empty());
    }

    #[test]
    fn half_an_entry_goes_once_its_writer_must_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        let [under_way, left] =
            ["1", "2"].map(|pid| dir.path().join(format!(".c-eth0.json.{pid}")));
        fs::write(&under_way, "{").unwrap();
        let left_file = fs::File::create(&left).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * ASIDE_FOR;
        left_file.set_modified(long_ago).unwrap();
        assert!(journal.entries().is_empty());
        assert!(under_way.exists() && !left.exists());
    }

    #[test]
    fn garbage_is_set_aside_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        fs::write(dir.path().join("bad-eth0.json"), "{").unwrap();
        let add = CniRequest {
            command: "ADD".into(),
            netns: "/x".into(),
            ..del("c")
        };
        fs::write(
            dir.path().join("c-eth0.json"),
            serde_json::to_vec(&add).unwrap(),
        )
        .unwrap();
        journal.write(&del("good")).unwrap();
        assert_eq!(journal.entries().len(), 1);
        assert_eq!(journal.entries()[0].request, del("good"));
        assert!(dir.path().join("bad-eth0.bad").exists());
    }
}
