//! The archive: text files in one folder.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::redact::redact;

/// Files that are yet to be written, secrets removed.
pub(super) struct Archive {
    now: Timestamp,
    files: Vec<(String, String)>,
    failed: usize,
}

impl Archive {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self {
            now,
            files: Vec::new(),
            failed: 0,
        }
    }

    /// The folder that all files are in.
    pub(super) fn name(&self) -> String {
        format!("diags-{}", self.now.strftime("%Y%m%d_%H%M%S"))
    }

    pub(super) fn add(&mut self, name: &str, text: String) {
        self.files.push((name.to_owned(), redact(&text)));
    }

    /// Adds what could be had, or why it could not.
    pub(super) fn add_result(&mut self, name: &str, result: Result<String, String>) {
        match result {
            Ok(text) => self.add(name, text),
            Err(reason) => {
                self.failed += 1;
                self.add(&format!("{name}.failed"), reason + "\n");
            }
        }
    }

    /// Writes a file that its owner alone can read; how many files are in it, and how many say that
    /// something could not be had.
    pub(super) fn save(&self, path: &Path) -> io::Result<(usize, usize)> {
        let mut options = OpenOptions::new();
        // Never over or through something that somebody put there.
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, text) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(self.now.as_second()).unwrap_or(0));
            archive.append_data(
                &mut header,
                format!("{}/{name}", self.name()),
                text.as_bytes(),
            )?;
        }
        archive.into_inner()?.finish()?.sync_all()?;
        Ok((self.files.len(), self.failed))
    }
}
