//! Files that only their owner may read.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use host_kernel::durable_file::{self, Durability};

/// Replaces a file atomically; only its owner can read it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    if fs::read(path).is_ok_and(|present| present == text.as_bytes()) && is_private(path) {
        return Ok(());
    }
    let written = durable_file::replace(path, text.as_bytes(), 0o600, Durability::Content);
    if let Err(error) = written {
        // On a full disk, overwriting the file in place may succeed.
        let in_place = || {
            let mut options = fs::OpenOptions::new();
            options.write(true).custom_flags(durable_file::no_link());
            let file = options.open(path)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
            file.sync_all()
        };
        if !is_private(path) || in_place().is_err() {
            return Err(error).with_context(|| format!("write {}", path.display()));
        }
    }
    Ok(())
}

fn is_private(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path);
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        write(&path, "x").unwrap();
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
