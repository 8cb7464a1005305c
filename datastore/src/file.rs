//! Database files: opened, or made, whatever a crash has left of one.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use redb::{Database, DatabaseError};

/// A file begins with as many octets that are not all zero, once it is one.
const MAGIC_LEN: u64 = 9;

/// Opens or makes the file, and its directory, readable by the owner only. Blocks on the disk.
///
/// The library writes the first octets of a new file last. Who is killed before leaves zeros, which held nothing and are
/// made anew here: the library refuses them for good.
pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Database, DatabaseError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // Whoever else makes it holds the directory meanwhile. One that is made is never truncated.
    let making = match is_made(&mut file)? {
        true => None,
        false => Some(File::open(dir)?),
    };
    if let Some(dir) = &making {
        dir.lock()?;
        if !is_made(&mut file)? {
            file.set_len(0)?;
        }
    }
    Database::builder()
        .set_cache_size(cache_bytes)
        .create_file(file)
}

/// Whether there is anything at its beginning.
fn is_made(file: &mut File) -> io::Result<bool> {
    file.rewind()?;
    let mut first = Vec::new();
    file.by_ref().take(MAGIC_LEN).read_to_end(&mut first)?;
    Ok(first.iter().any(|octet| *octet != 0))
}
