//! The commit in the version, from the files of git.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

#[path = "../build/commit.rs"]
mod commit;

use commit::Commit;

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
    let found = Commit::of_checkout(root);
    assert_eq!(found.id, TWO);
    let files = ["HEAD", "logs/HEAD", "refs/heads/main"].map(|name| git.join(name));
    assert_eq!(found.files, files);
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
