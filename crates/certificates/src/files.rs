//! The small files of the authority, which only their owner can read.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt as _, path::Path};

use host_kernel::durable_file::{self, Durability};

use crate::CertificateError;

/// Creates the directory if it does not exist.
pub(crate) fn make_dir(dir: &Path) -> Result<(), CertificateError> {
    let result = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    result.map_err(|source| failed("create", dir, source))
}

/// Reads a file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<String>, CertificateError> {
    match durable_file::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The caller treats a file that is not text as invalid PEM.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Replaces a file of mode 0600. After a crash the file has the old or the new content.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), CertificateError> {
    durable_file::replace(path, text.as_bytes(), 0o600, Durability::Name)
        .map_err(|source| failed("write", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CertificateError {
    CertificateError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
