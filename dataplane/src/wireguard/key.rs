//! Keys: 32 octets, written in base64 as the tools of WireGuard do.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Octets in a key.
pub(super) const KEY_LEN: usize = 32;
/// No key file is longer; more is not read.
const FILE_LEN: u64 = 256;

/// What another host is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

/// What makes a host the one with its public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; KEY_LEN]);

/// A text that is no key. It does not repeat the text, which may be a private one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 octets in base64, 44 characters with the last a '='")]
pub struct KeyError;

/// Why there is no private key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file could not be read, or made.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something else is in the file. It is left as it is.
    #[error("{path} holds no private key ({source}); remove it and a new one is made")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
}

impl From<[u8; KEY_LEN]> for PublicKey {
    fn from(octets: [u8; KEY_LEN]) -> Self {
        Self(octets)
    }
}

impl PublicKey {
    pub(super) const fn octets(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key of a device that has none.
    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; KEY_LEN]
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        octets(text).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// A key of these octets, clamped as X25519 wants it (RFC 7748, section 5), which the kernel does too.
    pub(super) const fn of(mut octets: [u8; KEY_LEN]) -> Self {
        octets[0] &= 0b1111_1000;
        octets[31] = (octets[31] & 0b0111_1111) | 0b0100_0000;
        Self(octets)
    }

    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn generate() -> Result<Self, KeyFileError> {
        const SOURCE: &str = "/dev/urandom";
        let mut octets = [0; KEY_LEN];
        let read = File::open(SOURCE).and_then(|mut source| source.read_exact(&mut octets));
        read.map_err(failed("read", Path::new(SOURCE)))?;
        Ok(Self::of(octets))
    }

    /// The key in a file; none if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn load(path: &Path) -> Result<Option<Self>, KeyFileError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path)(error)),
        };
        let mut text = String::new();
        let read = file.take(FILE_LEN).read_to_string(&mut text);
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
            Err(error) => return Err(failed("read", path)(error)),
        }
        let content = |source| KeyFileError::Content {
            path: path.to_owned(),
            source,
        };
        octets(text.trim()).map(Self::of).map(Some).map_err(content)
    }

    /// Writes the key into a file that only its owner reads: whole or not at all, whatever happens meanwhile.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed("make", dir))?;
        }
        let new = path.with_extension("new");
        let write = || -> io::Result<()> {
            // One that a crash left may have any mode.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            writeln!(file, "{}", STANDARD.encode(self.0))?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            match path.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(failed("write", path))
    }

    pub(super) const fn octets(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

fn octets(text: &str) -> Result<[u8; KEY_LEN], KeyError> {
    let decoded = STANDARD.decode(text).map_err(|_no_base64| KeyError)?;
    decoded.try_into().map_err(|_length| KeyError)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::Io {
        action,
        path,
        source,
    }
}
