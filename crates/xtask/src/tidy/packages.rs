//! The number of packages that the program is built of, as cargo resolves them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::checkout::Finding;
use crate::cargo;

/// The limit of packages, the program's own crates and those of other platforms included. A change
/// that removes packages lowers it; a new one needs a reason in `docs/contributing/dependencies.md`.
const PACKAGES_MAX: usize = 347;

/// The package whose dependencies are counted.
const PROGRAM: &str = "mainstay";

/// Counts the packages of the checkout at `root`. Dependencies of build scripts and of tests are not in the
/// program.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let options = "--prefix none --edges normal --target all --package";
    let tree = tree(root, &format!("{options} {PROGRAM}"))?;
    let packages = packages(&tree).len();
    let finding = |text: String| Finding {
        file: "Cargo.lock".to_owned(),
        text,
    };
    Ok(judge(packages).map(finding).into_iter().collect())
}

/// Cargo's tree of packages. Cargo downloads the packages of other platforms, which no build has
/// needed on a fresh machine.
pub(super) fn tree(root: &Path, options: &str) -> Result<String> {
    let output = cargo::command(root)
        .args(["tree", "--locked"])
        .args(options.split(' '))
        // The features of the chosen packages alone, even where those of the whole workspace are built.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "cargo tree {options} ended with {}: {reason}",
            output.status
        );
    }
    String::from_utf8(output.stdout).context("read the tree of packages")
}

fn judge(packages: usize) -> Option<String> {
    (packages > PACKAGES_MAX).then(|| {
        format!(
            "{PROGRAM} is built of {packages} packages, and the limit is {PACKAGES_MAX}: see docs/contributing/dependencies.md"
        )
    })
}

/// Names and versions of the packages in cargo's tree, which has one in each line, and some more than once.
fn packages(tree: &str) -> BTreeSet<(&str, &str)> {
    let words = tree.lines().map(str::split_whitespace);
    words
        .filter_map(|mut words| Some((words.next()?, words.next()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_a_package_is_counted_once() {
        let tree = "\
            mainstay v0.1.0 (/checkout/crates/mainstay)\n\
            a v2.0.0\n\
            b v1.0.0 (proc-macro)\n\
            a v1.0.0\n\
            a v2.0.0 (*)\n\n";
        let found: Vec<String> = packages(tree)
            .into_iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        let all = ["a v1.0.0", "a v2.0.0", "b v1.0.0", "mainstay v0.1.0"];
        assert_eq!(found, all);
    }

    #[test]
    fn more_packages_than_the_limit_are_reported() {
        assert_eq!(judge(PACKAGES_MAX), None);
        assert!(judge(PACKAGES_MAX + 1).unwrap().contains("the limit is"));
    }
}
