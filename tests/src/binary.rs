//! Where the programs under test are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

/// The program `name`: in `MARGAY_BIN_DIR` if that is set, else beside this program, else in `target/`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folders = folders();
    let found = folders.iter().map(|f| f.join(name)).find(|p| p.is_file());
    found.ok_or_else(|| {
        let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        anyhow!("{name} is not built: looked in {}", looked.join(", "))
    })
}

fn folders() -> Vec<PathBuf> {
    if let Some(dir) = env::var_os("MARGAY_BIN_DIR") {
        return vec![PathBuf::from(dir)];
    }
    let mut folders = Vec::new();
    if let Ok(own) = env::current_exe() {
        // Tests are in target/debug/deps, programs in target/debug.
        folders.extend(own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    folders.push(target.join("release"));
    folders.push(target.join("debug"));
    folders
}
