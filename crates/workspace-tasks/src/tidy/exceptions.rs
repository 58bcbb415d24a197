//! Lists of exceptions and of scopes: an exception that no check needs any more is a finding, and so is a
//! scope without files.

use std::collections::BTreeSet;

use super::checkout::{Finding, SourceFile, is_whole};

/// A list of exceptions, and those of them that were needed.
pub struct Exceptions {
    /// The file of tidy that has the list.
    list: &'static str,
    keys: BTreeSet<String>,
    needed: BTreeSet<String>,
}

impl Exceptions {
    /// The exceptions with these keys, most often paths.
    pub fn new<K: Into<String>>(list: &'static str, keys: impl IntoIterator<Item = K>) -> Self {
        Self {
            list,
            keys: keys.into_iter().map(Into::into).collect(),
            needed: BTreeSet::new(),
        }
    }

    /// Whether the finding with this key is excepted. Called for findings alone.
    pub fn allow(&mut self, key: &str) -> bool {
        let is_listed = self.keys.contains(key);
        if is_listed {
            self.needed.insert(key.to_owned());
        }
        is_listed
    }

    /// Whether a finding in this file is excepted by its folder.
    pub fn allow_below(&mut self, path: &str) -> bool {
        let mut folders = self.keys.iter();
        let Some(folder) = folders.find(|folder| path.starts_with(folder.as_str())) else {
            return false;
        };
        self.needed.insert(folder.clone());
        true
    }

    /// The exceptions that no finding of the checkout needed.
    pub fn unneeded(&self, files: &[SourceFile]) -> Vec<Finding> {
        if !is_whole(files) {
            return Vec::new();
        }
        let unneeded = self.keys.difference(&self.needed);
        unneeded
            .map(|key| unneeded_finding(self.list, key))
            .collect()
    }
}

/// The finding about an exception that is not needed.
pub fn unneeded_finding(list: &str, key: &str) -> Finding {
    Finding {
        file: format!("crates/workspace-tasks/src/tidy/{list}"),
        text: format!("the exception `{key}` is not needed: take it out"),
    }
}

/// The paths of a list below which the checkout has no file.
pub fn without_files<'p>(
    list: &str,
    paths: impl IntoIterator<Item = &'p str>,
    files: &[SourceFile],
) -> Vec<Finding> {
    let is_empty = |scope: &&str| !files.iter().any(|file| file.path.starts_with(*scope));
    let empty = paths
        .into_iter()
        .filter(|scope| is_whole(files) && is_empty(scope));
    let finding = |scope: &str| Finding {
        file: format!("crates/workspace-tasks/src/tidy/{list}"),
        text: format!("nothing is checked in `{scope}`, which has no files: take it out"),
    };
    empty.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_that_nothing_needs_is_found() {
        let mut exceptions = Exceptions::new("a.rs", ["b.rs", "c.rs", "d/"]);
        assert!(exceptions.allow("b.rs") && exceptions.allow_below("d/e.rs"));
        assert!(!exceptions.allow("e.rs") && !exceptions.allow_below("e/f.rs"));
        let findings = exceptions.unneeded(&[SourceFile::new("Cargo.toml", "")]);
        assert_eq!(findings, [unneeded_finding("a.rs", "c.rs")]);
        assert!(exceptions.unneeded(&[]).is_empty(), "not a whole checkout");
    }

    #[test]
    fn a_scope_without_files_is_found() {
        let files = [
            SourceFile::new("Cargo.toml", ""),
            SourceFile::new("a/b.rs", ""),
        ];
        let findings = without_files("x.rs", ["a/", "c/"], &files);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].text.contains("`c/`"));
    }
}
