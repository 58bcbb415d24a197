//! hostPath volumes and their types (statefulset.md §12.14).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host_kernel::Interrupted;

/// The reason why a hostPath volume is not available.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    #[error("hostPath type check failed: {} is not {expected}", path.display())]
    OtherType {
        path: PathBuf,
        expected: &'static str,
    },
    #[error("{0} is an invalid volume type")]
    InvalidType(String),
    #[error("make {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("make the drivers' directory: {0}")]
    KubeletDir(io::Error),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Checks that `path` has the type `type_`, and creates the path for types with `OrCreate`.
///
/// # Errors
/// The text is kubelet's.
pub fn check(path: &Path, type_: &str) -> Result<(), HostPathError> {
    let metadata = fs::metadata(path);
    let type_error = |expected: &'static str| {
        Err(HostPathError::OtherType {
            path: path.to_owned(),
            expected,
        })
    };
    let has_type = |test: fn(&fs::Metadata) -> bool| metadata.as_ref().is_ok_and(test);
    match type_ {
        "" => match &metadata {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_dir(path),
            _ => Ok(()),
        },
        "DirectoryOrCreate" if metadata.is_err() => create_dir(path),
        "FileOrCreate" if metadata.is_err() => create_file(path),
        "Directory" | "DirectoryOrCreate" if has_type(fs::Metadata::is_dir) => Ok(()),
        "File" | "FileOrCreate" if has_type(fs::Metadata::is_file) => Ok(()),
        "Socket" if has_type(|m| m.file_type().is_socket()) => Ok(()),
        "CharDevice" if has_type(|m| m.file_type().is_char_device()) => Ok(()),
        "BlockDevice" if has_type(|m| m.file_type().is_block_device()) => Ok(()),
        "Directory" | "DirectoryOrCreate" => type_error("a directory"),
        "File" | "FileOrCreate" => type_error("a file"),
        "Socket" => type_error("a socket file"),
        "CharDevice" => type_error("a character device"),
        "BlockDevice" => type_error("a block device"),
        invalid_type => Err(HostPathError::InvalidType(invalid_type.to_owned())),
    }
}

fn create_dir(path: &Path) -> Result<(), HostPathError> {
    let created = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path);
    created.map_err(|source| create_error(path, source))
}

fn create_file(path: &Path) -> Result<(), HostPathError> {
    let mut options = fs::OpenOptions::new();
    let created = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path);
    created
        .map(|_| ())
        .map_err(|source| create_error(path, source))
}

fn create_error(path: &Path, source: io::Error) -> HostPathError {
    HostPathError::Create {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        // statefulset.md 12.14
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        assert!(check(&path("made/deep"), "DirectoryOrCreate").is_ok());
        assert!(path("made/deep").is_dir());
        assert!(check(&path("made-too"), "").is_ok());
        assert!(check(&path("new-file"), "FileOrCreate").is_ok());
        assert!(check(&path("file"), "File").is_ok());
        let error = check(&path("file"), "Directory").unwrap_err();
        let message = error.to_string();
        assert!(message.ends_with("is not a directory"), "{message}");
        assert!(check(&path("none"), "Socket").is_err());
    }
}
