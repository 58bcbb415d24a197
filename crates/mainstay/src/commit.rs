//! The commit that a checkout is at, from the files of git: building needs no git program.

use std::path::{Path, PathBuf};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// In hexadecimal; empty if it is unknown.
    pub id: String,
    /// The files of git that change when the commit of the checkout changes.
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

/// The directory of git: `.git` itself, or the directory that the file `.git` of a linked worktree names.
fn git_directory(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let text = std::fs::read_to_string(path).ok()?;
    let named = text.strip_prefix("gitdir:")?.trim();
    Some(path.parent()?.join(named))
}

/// The commit of `HEAD`: the id in the file, or the commit of the branch that the file names, from the
/// branch's file or from the packed list.
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
    if let Some(id_text) = read(shared.join(name)) {
        return id(&id_text);
    }
    let packed = read(shared.join("packed-refs"))?;
    let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(_, of)| *of == name)
        .and_then(|(text, _)| id(text))
}

/// Whether the text is a commit id of SHA-1 or SHA-256.
fn id(text: &str) -> Option<String> {
    let text = text.trim();
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef01234567";
    const TWO: &str = "89abcdef0123456789abcdef0123456789abcdef";

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn id(root: &Path) -> String {
        Commit::of_checkout(root).id
    }

    // findings-2 C38
    #[test]
    fn the_commit_is_read_without_the_git_program() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let git = root.join(".git");
        // An archive, below another repository too.
        put(&git.join("HEAD"), &format!("{TWO}\n"));
        let archive = root.join("archive");
        fs::create_dir(&archive).unwrap();
        assert_eq!(Commit::of_checkout(&archive), Commit::default());
        // A commit without a branch.
        assert_eq!(id(root), TWO);
        // A branch in the packed list, then in a file of its own.
        put(&git.join("HEAD"), "ref: refs/heads/main\n");
        assert_eq!(id(root), "");
        let packed = format!(
            "# pack-refs with: peeled\n{TWO} refs/heads/main2\n{ONE} refs/heads/main\n^{TWO}\n"
        );
        put(&git.join("packed-refs"), &packed);
        assert_eq!(id(root), ONE);
        put(&git.join("refs/heads/main"), &format!("{TWO}\n"));
        put(&git.join("logs/HEAD"), "");
        let result = Commit::of_checkout(root);
        assert_eq!(result.id, TWO);
        let files = ["HEAD", "logs/HEAD", "refs/heads/main"].map(|name| git.join(name));
        assert_eq!(result.files, files);
        // A further worktree.
        let tree = root.join("tree");
        put(&tree.join(".git"), "gitdir: ../.git/worktrees/tree\n");
        put(&git.join("worktrees/tree/HEAD"), "ref: refs/heads/side\n");
        put(&git.join("worktrees/tree/commondir"), "../..\n");
        put(&git.join("refs/heads/side"), ONE);
        assert_eq!(id(&tree), ONE);
        for strange in ["", "main", "ref: ", &ONE[1..], "ref: refs/heads/none"] {
            put(&git.join("HEAD"), strange);
            assert_eq!(id(root), "", "{strange:?}");
        }
    }
}
