//! hostPath volumes and their types (statefulset.md §12.14).

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks that `path` has the type `type_`, and creates the path for types with `OrCreate`.
///
/// # Errors
/// The text is kubelet's.
pub fn check(path: &Path, type_: &str) -> Result<(), String> {
    let shown = path.display();
    let found = fs::metadata(path);
    let failed = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    let is = |test: fn(&fs::Metadata) -> bool| found.as_ref().is_ok_and(test);
    match type_ {
        "" => match &found {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_dir(path),
            _ => Ok(()),
        },
        "DirectoryOrCreate" if found.is_err() => make_dir(path),
        "FileOrCreate" if found.is_err() => make_file(path),
        "Directory" | "DirectoryOrCreate" if is(fs::Metadata::is_dir) => Ok(()),
        "File" | "FileOrCreate" if is(fs::Metadata::is_file) => Ok(()),
        "Socket" if is(|m| m.file_type().is_socket()) => Ok(()),
        "CharDevice" if is(|m| m.file_type().is_char_device()) => Ok(()),
        "BlockDevice" if is(|m| m.file_type().is_block_device()) => Ok(()),
        "Directory" | "DirectoryOrCreate" => failed("a directory"),
        "File" | "FileOrCreate" => failed("a file"),
        "Socket" => failed("a socket file"),
        "CharDevice" => failed("a character device"),
        "BlockDevice" => failed("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make_dir(path: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path);
    made.map_err(|error| format!("make {}: {error}", path.display()))
}

fn make_file(path: &Path) -> Result<(), String> {
    let mut options = fs::OpenOptions::new();
    let made = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path);
    made.map(|_| ())
        .map_err(|error| format!("make {}: {error}", path.display()))
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
        let message = check(&path("file"), "Directory").unwrap_err();
        assert!(message.ends_with("is not a directory"), "{message}");
        assert!(check(&path("none"), "Socket").is_err());
    }
}
