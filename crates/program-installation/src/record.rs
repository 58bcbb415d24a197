//! The record of the files that `install` has written; `install` replaces and `uninstall` removes
//! no other file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{InstallError, Result};

/// The path of the record.
pub const PATH: &str = "/usr/local/share/mainstay/installed.json";

/// The record. Paths are those of the installed system, without the directory of `--root`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallRecord {
    pub data_directory: PathBuf,
    /// Files with the SHA-256 of their contents.
    pub files: BTreeMap<PathBuf, String>,
    /// Directories that `install` created.
    pub directories: BTreeSet<PathBuf>,
}

impl InstallRecord {
    /// Reads the record; `None` if nothing is installed.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(InstallError::file("read", path)(error)),
        };
        let record = serde_json::from_str(&text);
        record.map_err(|source| InstallError::MalformedRecord {
            path: path.to_owned(),
            source,
        })
    }

    pub fn text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(InstallError::Encode)?;
        Ok(text + "\n")
    }
}

/// The SHA-256 of a file; `None` if the file does not exist.
pub fn digest_of_file(path: &Path) -> Result<Option<String>> {
    let digest_result = File::open(path).and_then(|mut file| {
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut HashWriter(&mut hash))?;
        Ok(hex(&hash.finalize()))
    });
    match digest_result {
        Ok(digest) => Ok(Some(digest)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(InstallError::file("read", path)(error)),
    }
}

pub fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'h>(&'h mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
