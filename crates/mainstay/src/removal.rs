//! Deletes the data of an instance and says what of it goes: that can take minutes.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

/// How deep below a part of the data one thing is told from another, such as an image's layers.
const DEPTH: usize = 2;

/// Who is told.
pub struct Listener<'a> {
    /// Of each part before it goes, and how many things of it have gone.
    pub say: &'a mut dyn FnMut(&str),
    /// Whether it is time to say how many.
    pub is_due: &'a mut dyn FnMut() -> bool,
}

/// Deletes a data directory, all that it contains first. Links are deleted, not what they lead to.
///
/// The store goes before all else: should this be cut off, nobody finds objects there whose data are
/// gone.
pub fn delete(data: &Path, listener: &mut Listener<'_>) -> Result<()> {
    let failed = || format!("delete {}", data.display());
    if !is_directory(data).with_context(failed)? {
        return fs::remove_file(data).with_context(failed);
    }
    let mut parts = names(data).with_context(failed)?;
    parts.sort_by_key(|name| (name != "store", name.clone()));
    for name in parts {
        let path = data.join(&name);
        let failed = || format!("delete {}", path.display());
        let shown = name.to_string_lossy();
        if !is_directory(&path).with_context(failed)? {
            fs::remove_file(&path).with_context(failed)?;
            continue;
        }
        (listener.say)(&shown);
        let mut gone = 0;
        let mut count = || {
            gone += 1;
            if (listener.is_due)() {
                (listener.say)(&format!("{shown}: {gone} gone"));
            }
        };
        remove(&path, DEPTH, &mut count).with_context(failed)?;
    }
    fs::remove_dir(data).with_context(failed)
}

/// Removes a directory, its things one after the other.
fn remove(directory: &Path, depth: usize, count: &mut dyn FnMut()) -> io::Result<()> {
    for name in names(directory)? {
        let path = directory.join(name);
        let is_directory = is_directory(&path)?;
        if is_directory && depth > 1 {
            remove(&path, depth - 1, count)?;
            continue;
        }
        if is_directory {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
        count();
    }
    fs::remove_dir(directory)
}

fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory)?;
    entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

fn is_directory(path: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn said(data: &Path, due: bool) -> (Vec<String>, Result<()>) {
        let mut said = Vec::new();
        let mut listener = Listener {
            say: &mut |text| said.push(text.to_owned()),
            is_due: &mut || due,
        };
        let result = delete(data, &mut listener);
        (said, result)
    }

    fn instance() -> tempfile::TempDir {
        let around = tempfile::tempdir().unwrap();
        let data = around.path().join("data");
        for path in ["volumes/a/deep/er", "volumes/b", "images/layers/x", "store"] {
            fs::create_dir_all(data.join(path)).unwrap();
            fs::write(data.join(path).join("file"), "text").unwrap();
        }
        fs::write(data.join("kubeconfig"), "text").unwrap();
        fs::write(data.join("images/images.json"), "{}").unwrap();
        fs::create_dir(around.path().join("kept")).unwrap();
        fs::write(around.path().join("kept/file"), "text").unwrap();
        symlink("../kept", data.join("seccomp")).unwrap();
        symlink("../../../kept", data.join("volumes/b/link")).unwrap();
        around
    }

    #[test]
    fn each_part_is_named_and_the_store_goes_first() {
        let around = instance();
        let data = around.path().join("data");
        let (texts, result) = said(&data, false);
        result.unwrap();
        assert_eq!(texts, ["store", "images", "volumes"]);
        assert!(!data.exists());
        assert!(around.path().join("kept/file").exists());
    }

    #[test]
    fn what_has_gone_is_counted() {
        let around = instance();
        let (texts, result) = said(&around.path().join("data"), true);
        result.unwrap();
        let images = texts.iter().filter(|text| text.starts_with("images"));
        let images: Vec<&String> = images.collect();
        assert_eq!(images, ["images", "images: 1 gone", "images: 2 gone"]);
    }

    #[test]
    fn what_cannot_be_deleted_is_named() {
        let around = tempfile::tempdir().unwrap();
        let (texts, result) = said(&around.path().join("absent"), true);
        let message = format!("{:#}", result.unwrap_err());
        assert!(message.contains("absent: No such file"), "{message}");
        assert!(texts.is_empty());
    }
}
