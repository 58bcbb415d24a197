//! Reading and writing the small files of the authority, for the owner's eyes only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::CertificateError;

/// Makes the directory, if needed.
pub(crate) fn make_dir(dir: &Path) -> Result<(), CertificateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| failed("create", dir, source))
}

/// Reads a file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, CertificateError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Not text is as good as not PEM; the caller finds out.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Writes a file under its name only when it is complete and durable.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), CertificateError> {
    let temporary = path.with_extension("new");
    write_temporary(&temporary, text).map_err(|source| failed("write", &temporary, source))?;
    fs::rename(&temporary, path).map_err(|source| failed("rename to", path, source))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| failed("sync", dir, source))
}

fn write_temporary(path: &Path, text: &str) -> io::Result<()> {
    // A leftover may have been made with other permissions.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CertificateError {
    CertificateError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
