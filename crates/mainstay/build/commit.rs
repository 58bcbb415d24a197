//! The commit that a checkout is at, from the files of git: building needs no git program.

use std::path::{Path, PathBuf};

/// The commit of a checkout.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// In hexadecimal; empty if it is unknown.
    pub id: String,
    /// The files that change with it.
    pub files: Vec<PathBuf>,
}

impl Commit {
    /// Reads the commit of the checkout with this root. A root without `.git`, such as that of an archive, has none,
    /// even in a directory of another repository.
    pub fn of_checkout(root: &Path) -> Self {
        let mut files = Vec::new();
        let id = git_directory(&root.join(".git")).and_then(|git| head(&git, &mut files));
        Self {
            id: id.unwrap_or_default(),
            files,
        }
    }
}

/// The directory of git: `.git` itself, or the one that the file `.git` of a further worktree names.
fn git_directory(place: &Path) -> Option<PathBuf> {
    if place.is_dir() {
        return Some(place.to_owned());
    }
    let text = std::fs::read_to_string(place).ok()?;
    let named = text.strip_prefix("gitdir:")?.trim();
    Some(place.parent()?.join(named))
}

/// The commit of `HEAD`: itself, or that of the branch that it names, in a file of its own or in the packed list.
fn head(git: &Path, files: &mut Vec<PathBuf>) -> Option<String> {
    let mut read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).ok()?;
        files.push(path);
        Some(text)
    };
    let head = read(git.join("HEAD"))?;
    // Every commit and every change of the branch adds a line.
    read(git.join("logs/HEAD"));
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else {
        return id(&head);
    };
    let shared = std::fs::read_to_string(git.join("commondir"));
    let shared = shared.map_or_else(|_| git.to_owned(), |path| git.join(path.trim()));
    if let Some(own) = read(shared.join(name)) {
        return id(&own);
    }
    let packed = read(shared.join("packed-refs"))?;
    let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(_, of)| *of == name)
        .and_then(|(text, _)| id(text))
}

/// A commit id, of SHA-1 or SHA-256.
fn id(text: &str) -> Option<String> {
    let text = text.trim();
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| text.to_ascii_lowercase())
}
