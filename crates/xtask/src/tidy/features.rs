//! The features of libraries are the same in the release programs and in the build of the tests.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::path::Path;

use anyhow::Result;

use super::checkout::Finding;
use super::packages;
use crate::cargo;

/// The format of a package in the tree: name and version, and its features.
const FORMAT: &str = "--charset ascii --format {p}|{f}";

/// Compares the features in a build of the programs with those in a build of the whole workspace. A package with other
/// features is compiled a second time, and all that depend on it.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    // With a target, cargo does not take a package for the host for the same one in programs.
    let options = format!("{FORMAT} --target {ARCH}-unknown-linux-gnu");
    let selection = cargo::PROGRAMS.join(" --package ");
    let programs = format!("{options} --edges normal,build --package {selection}");
    let all = format!("{options} --edges normal,build,dev --workspace");
    let programs = packages::tree(root, &programs)?;
    let all = packages::tree(root, &all)?;
    Ok(compare(&programs, &all))
}

/// A package in a tree.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row<'a> {
    /// Whether it is compiled for the compiler's machine: build scripts and procedural macros use it. Its features are
    /// others than those of the same package in programs.
    is_for_host: bool,
    package: &'a str,
    features: &'a str,
}

/// Findings of two trees.
fn compare(programs: &str, all: &str) -> Vec<Finding> {
    let (programs, all) = (rows(programs), rows(all));
    programs
        .difference(&all)
        .map(|row| Finding {
            file: "crates/workspace-hack/Cargo.toml".to_owned(),
            text: finding(row, &all),
        })
        .collect()
}

/// The packages of a tree. Each level is indented by four characters; a heading stands where the branches below it begin.
fn rows(tree: &str) -> BTreeSet<Row<'_>> {
    // Of each level: whether the last package is for the host, and whether the next ones are, whatever is above them.
    let mut hosts: Vec<bool> = Vec::new();
    let mut headed: Vec<bool> = Vec::new();
    let mut rows = BTreeSet::new();
    for line in tree.lines() {
        let text = line.trim_start_matches(['|', '`', '-', ' ']);
        let level = (line.len() - text.len()) / 4;
        if text.starts_with('[') {
            headed.resize(level + 2, false);
            headed[level + 1] = text == "[build-dependencies]";
            continue;
        }
        let Some((package, features)) = text.split_once('|') else {
            continue;
        };
        headed.resize(level + 1, false);
        hosts.truncate(level);
        let above = hosts.last().copied().unwrap_or(false);
        let is_for_host = above || headed[level] || package.ends_with("(proc-macro)");
        hosts.push(is_for_host);
        rows.insert(Row {
            is_for_host,
            package,
            features: features.trim_end_matches(" (*)"),
        });
    }
    rows
}

fn finding(row: &Row<'_>, all: &BTreeSet<Row<'_>>) -> String {
    let is_same =
        |other: &&Row<'_>| (other.is_for_host, other.package) == (row.is_for_host, row.package);
    let others: Vec<&str> = all.iter().filter(is_same).map(|row| row.features).collect();
    let section = match row.is_for_host {
        true => "build-dependencies",
        false => "dependencies",
    };
    format!(
        "{} has the features '{}' in the programs, and '{}' in the build of the tests: add what is missing to [{section}]",
        row.package,
        row.features,
        others.join("' or '")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAMS: &str = "\
mainstay v0.1.0 (/checkout)|
|-- a v1.0.0|std
|   |-- derive v1.0.0 (proc-macro)|
|   |   `-- b v2.0.0|full
|   [build-dependencies]
|   `-- c v3.0.0|alloc
|       `-- a v1.0.0|
|-- b v2.0.0|
`-- a v1.0.0|std (*)
";

    #[test]
    fn packages_of_build_scripts_and_macros_are_for_the_host() {
        let found: Vec<(bool, &str, &str)> = rows(PROGRAMS)
            .into_iter()
            .map(|row| (row.is_for_host, row.package, row.features))
            .collect();
        let wanted = [
            (false, "a v1.0.0", "std"),
            (false, "b v2.0.0", ""),
            (false, "mainstay v0.1.0 (/checkout)", ""),
            (true, "a v1.0.0", ""),
            (true, "b v2.0.0", "full"),
            (true, "c v3.0.0", "alloc"),
            (true, "derive v1.0.0 (proc-macro)", ""),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_package_with_other_features_in_the_tests_is_reported() {
        assert!(compare(PROGRAMS, PROGRAMS).is_empty());
        let more = "kube v5.0.0|client\n`-- a v1.0.0|std (*)\n";
        assert!(compare(PROGRAMS, &format!("{PROGRAMS}{more}")).is_empty());
        let of = |from: &str, to: &str| {
            let found = compare(PROGRAMS, &PROGRAMS.replace(from, to));
            let texts = found.into_iter().map(|finding| finding.text);
            texts.collect::<Vec<_>>()
        };
        assert_eq!(
            of("a v1.0.0|std", "a v1.0.0|default,std"),
            [
                "a v1.0.0 has the features 'std' in the programs, and 'default,std' in the build of the tests: \
                 add what is missing to [dependencies]"
            ]
        );
        assert_eq!(
            of("       `-- a v1.0.0|", "       `-- a v1.0.0|std"),
            [
                "a v1.0.0 has the features '' in the programs, and 'std' in the build of the tests: \
                 add what is missing to [build-dependencies]"
            ]
        );
    }
}
