//! `--keep`: how to look around in the lab that stays, and how to take it down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// What stays behind.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) pids: Vec<u32>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) hints: Vec<String>,
}

impl Kept {
    /// Writes the script that removes everything and prints what to do with the lab.
    pub(crate) fn explain(&self, dir: &Path) -> Result<()> {
        let script = dir.join("down.sh");
        let mut text = String::from("#!/bin/sh\n");
        for pid in &self.pids {
            text += &format!("kill -9 {pid} 2>/dev/null\n");
        }
        for name in &self.namespaces {
            text += &format!("ip netns del {name}\n");
        }
        for folder in &self.folders {
            text += &format!("rm -rf '{}'\n", folder.display());
        }
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        println!("\nThe lab stays up. To look around (as root):");
        for hint in &self.hints {
            println!("  {hint}");
        }
        println!("To take it down:\n  {}", script.display());
        Ok(())
    }
}
