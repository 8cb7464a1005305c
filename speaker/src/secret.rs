//! Text that must not appear in logs or output.

use std::{env, fmt, fs, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{EnumAccess, Error, VariantAccess, Visitor},
};

/// A secret: readable by the code that needs it, redacted when printed, never serialised.
///
/// In a configuration it is written out, or where it is found when the configuration is read:
/// `!file PATH` or `!env NAME`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a secret cannot be read. It never tells what was there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// From its file.
    #[error("the file {path} of a secret: {source}")]
    File {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// From its environment variable.
    #[error("the environment variable {name} of a secret is not set, or no text")]
    Env {
        /// Which.
        name: String,
    },
}

impl Secret {
    /// Wraps a secret.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// What a file has, but for the end of its last line.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let text = fs::read_to_string(path).map_err(|source| SecretError::File {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self(text.trim_end_matches(['\n', '\r']).to_owned()))
    }

    /// What an environment variable has.
    pub fn from_env(name: &str) -> Result<Self, SecretError> {
        let text = env::var(name).map_err(|_unset| SecretError::Env {
            name: name.to_owned(),
        })?;
        Ok(Self(text))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Said)
    }
}

/// Reads a secret from a configuration.
struct Said;

/// Where else it can be.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    File,
    Env,
}

impl<'de> Visitor<'de> for Said {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, !file PATH or !env NAME")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Secret, A::Error> {
        let (place, value) = tagged.variant::<Place>()?;
        let place_of = value.newtype_variant::<String>()?;
        let read = match place {
            Place::File => Secret::from_file(Path::new(&place_of)),
            Place::Env => Secret::from_env(&place_of),
        };
        read.map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Secret, serde_norway::Error> {
        serde_norway::from_str(text)
    }

    #[test]
    fn debug_does_not_tell() {
        assert!(!format!("{:?}", Secret::new("hunter2".into())).contains("hunter2"));
    }

    #[test]
    fn it_is_written_out_or_in_a_file_or_in_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hunter2\n").unwrap();
        let in_file = format!("!file {}", file.path().display());
        for text in ["hunter2", &in_file] {
            assert_eq!(read(text).unwrap().expose(), "hunter2", "{text}");
        }
        // Any variable that every process has will do.
        let path = env::var("PATH").unwrap();
        assert_eq!(read("!env PATH").unwrap().expose(), path);
    }

    #[test]
    fn what_is_wrong_is_told_but_no_secret() {
        let missing = read("!file /nowhere/key").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/key"), "{missing}");
        let unset = read("!env MARGAY_IS_NOT_SET").unwrap_err().to_string();
        assert!(unset.contains("MARGAY_IS_NOT_SET"), "{unset}");
        let other = read("!vault key").unwrap_err().to_string();
        assert!(other.contains("file") && other.contains("env"), "{other}");
        let number = read("17").unwrap_err().to_string();
        assert!(number.contains("!file PATH"), "{number}");
    }
}
