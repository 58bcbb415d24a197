//! Installation into another root directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use clap::CommandFactory;

use super::*;

fn target(root: &Path, dry_run: bool) -> TargetArguments {
    TargetArguments {
        dry_run,
        root: root.to_owned(),
    }
}

fn installed(root: &Path, dry_run: bool) -> Result<()> {
    let arguments = InstallArguments {
        target: target(root, dry_run),
        data: DataDirectory::default(),
        role: Role::Up,
    };
    install(&arguments, &crate::CommandLine::command())
}

fn uninstalled(root: &Path, dry_run: bool) -> Result<()> {
    uninstall(&UninstallArguments {
        target: target(root, dry_run),
    })
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(below(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

/// Findings U11: install is idempotent, and uninstall leaves only earlier files.
#[test]
fn what_is_installed_is_removed_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let other = root.join("usr/local/bin/other");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::write(&other, "other").unwrap();
    installed(root, true).unwrap();
    assert_eq!(below(root), [&*other]);

    installed(root, false).unwrap();
    let files = below(root);
    for path in [
        "usr/local/bin/mainstay",
        "usr/local/share/man/man1/mainstay.1",
        "usr/local/share/man/man1/mainstay-up.1",
        "usr/local/share/bash-completion/completions/mainstay",
        "usr/local/share/zsh/site-functions/_mainstay",
        "usr/local/share/fish/vendor_completions.d/mainstay.fish",
        "etc/systemd/system/mainstay.service",
    ] {
        assert!(files.contains(&root.join(path)), "{path}: {files:#?}");
    }
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("usr/local/bin/mainstay"), 0o755);
    assert_eq!(mode("etc/systemd/system/mainstay.service"), 0o644);
    installed(root, false).unwrap();
    assert_eq!(below(root), files);

    uninstalled(root, true).unwrap();
    assert_eq!(below(root), files);
    uninstalled(root, false).unwrap();
    assert_eq!(below(root), [other]);
    assert!(!root.join("etc").exists() && !root.join("usr/local/share").exists());
    let error = uninstalled(root, false).unwrap_err().to_string();
    assert!(error.contains("nothing is installed"), "{error}");
}

/// Findings U11: files of others are not replaced, and files that were changed are not removed.
#[test]
fn what_is_of_others_stays() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let unit = root.join("etc/systemd/system/mainstay.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, "[Unit]\n").unwrap();
    let error = installed(root, false).unwrap_err().to_string();
    assert!(error.contains("is not of `mainstay install`"), "{error}");
    assert_eq!(below(root), [&*unit]);
    fs::remove_file(&unit).unwrap();

    installed(root, false).unwrap();
    fs::write(&unit, "[Unit]\n").unwrap();
    let error = installed(root, false).unwrap_err().to_string();
    assert!(error.contains("was changed after"), "{error}");
    uninstalled(root, false).unwrap();
    assert_eq!(below(root), [unit]);
}
