//! The plan of an installation: the files to write or remove, from the existing files and the record.

use std::path::{Path, PathBuf};

use crate::record::InstallRecord;

/// The action of `install` for one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAction {
    Write,
    /// The file exists with this content.
    Keep,
}

/// The action for a file to install, or the reason for a refusal. `present` is the digest of the existing
/// file.
pub fn step(
    path: &Path,
    desired: &str,
    present: Option<&str>,
    before: &InstallRecord,
) -> Result<FileAction, String> {
    match present {
        None => Ok(FileAction::Write),
        Some(present) if present == desired => Ok(FileAction::Keep),
        Some(present) => match before.files.get(path) {
            Some(written) if written == present => Ok(FileAction::Write),
            Some(_) => Err(format!(
                "{} was changed after it was installed",
                path.display()
            )),
            None => Err(format!("{} is not of `mainstay install`", path.display())),
        },
    }
}

/// The files that `uninstall` removes, and the changed files that stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub files: Vec<PathBuf>,
    /// Files that were changed after the installation; they stay.
    pub changed: Vec<PathBuf>,
}

/// Sorts the recorded files; `present` returns the digest of an existing file.
pub fn removal(record: &InstallRecord, present: impl Fn(&Path) -> Option<String>) -> Removal {
    let mut removal = Removal::default();
    for (path, written) in &record.files {
        match present(path) {
            Some(digest) if digest == *written => removal.files.push(path.clone()),
            Some(_) => removal.changed.push(path.clone()),
            None => {}
        }
    }
    removal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> InstallRecord {
        let mut record = InstallRecord::default();
        for (path, digest) in [("/a", "1"), ("/b", "2"), ("/c", "3")] {
            record.files.insert(path.into(), digest.to_owned());
        }
        record
    }

    #[test]
    fn only_what_was_installed_is_replaced() {
        let record = record();
        let at = |path: &str, present| step(Path::new(path), "9", present, &record);
        assert_eq!(at("/a", None), Ok(FileAction::Write));
        assert_eq!(at("/a", Some("9")), Ok(FileAction::Keep));
        assert_eq!(at("/a", Some("1")), Ok(FileAction::Write));
        let changed = at("/a", Some("8")).unwrap_err();
        assert!(changed.contains("/a was changed"), "{changed}");
        let strange = at("/z", Some("8")).unwrap_err();
        assert!(strange.contains("/z is not of"), "{strange}");
        // An existing file with the desired contents is adopted.
        assert_eq!(at("/z", Some("9")), Ok(FileAction::Keep));
    }

    #[test]
    fn only_what_was_installed_is_removed() {
        let result = removal(&record(), |path| match path.to_str() {
            Some("/a") => Some("1".to_owned()),
            Some("/b") => Some("changed".to_owned()),
            _ => None,
        });
        assert_eq!(result.files, [PathBuf::from("/a")]);
        assert_eq!(result.changed, [PathBuf::from("/b")]);
    }
}
