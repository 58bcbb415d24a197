//! The number of packages that the program is built of, from `Cargo.lock` and the manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Finding, SourceFile};

/// The limit of packages, the program's own crates and those of other platforms included. A change
/// that removes packages lowers it; a new one needs a reason in `docs/contributing/dependencies.md`.
const PACKAGES_MAX: usize = 416;

/// The package whose dependencies are counted.
const PROGRAM: &str = "mainstay";

/// Counts the packages of the checkout at `root`.
pub fn check(root: &Path, files: &[SourceFile]) -> Result<Vec<Finding>> {
    let path = "Cargo.lock";
    let text = fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
    let lock: Table = text.parse().with_context(|| format!("parse {path}"))?;
    let packages = of_program(&lock, &manifests(files)?).len();
    let finding = |text: String| Finding {
        file: path.to_owned(),
        text,
    };
    Ok(judge(packages).map(finding).into_iter().collect())
}

fn judge(packages: usize) -> Option<String> {
    (packages > PACKAGES_MAX).then(|| {
        format!(
            "{PROGRAM} is built of {packages} packages, and the limit is {PACKAGES_MAX}: see docs/contributing/dependencies.md"
        )
    })
}

/// The dependencies, without those of tests, of each crate of the workspace.
fn manifests(files: &[SourceFile]) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut manifests = BTreeMap::new();
    for file in files {
        let Some(name) = super::dependencies::manifest_of(&file.path) else {
            continue;
        };
        let manifest: Table = file
            .text
            .parse()
            .with_context(|| format!("parse {}", file.path))?;
        let tables = ["dependencies", "build-dependencies"];
        let tables = tables
            .iter()
            .filter_map(|table| manifest.get(*table)?.as_table());
        let names = tables.flat_map(|table| table.keys().cloned()).collect();
        manifests.insert(name.to_owned(), names);
    }
    Ok(manifests)
}

/// Names and versions of what the program is built of. `Cargo.lock` lists the dependencies of tests, too:
/// those of the workspace are left out.
fn of_program(
    lock: &Table,
    manifests: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<(String, String)> {
    let packages: Vec<&Table> = lock
        .get("package")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_table)
        .collect();
    let text = |package: &Table, key: &str| -> String {
        let text = package.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let mut found = BTreeSet::new();
    // What is looked for: a name, and a version where there are several.
    let mut wanted = vec![PROGRAM.to_owned()];
    while let Some(dependency) = wanted.pop() {
        let mut words = dependency.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let is_it = |package: &&&Table| {
            text(package, "name") == name
                && version.is_none_or(|version| text(package, "version") == version)
        };
        let Some(package) = packages.iter().find(is_it) else {
            continue;
        };
        if !found.insert((text(package, "name"), text(package, "version"))) {
            continue;
        }
        let listed = package.get("dependencies").and_then(Value::as_array);
        let listed = listed.into_iter().flatten().filter_map(Value::as_str);
        let own = manifests.get(name);
        let is_built_in = |listed: &&str| {
            let name = listed.split(' ').next().unwrap_or_default();
            own.is_none_or(|own| own.contains(name))
        };
        wanted.extend(listed.filter(is_built_in).map(str::to_owned));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_other_versions_are_not_counted() {
        let lock = r#"
            [[package]]
            name = "mainstay"
            version = "0.1.0"
            dependencies = ["a 2.0.0", "of-tests"]
            [[package]]
            name = "a"
            version = "1.0.0"
            [[package]]
            name = "a"
            version = "2.0.0"
            dependencies = ["b"]
            [[package]]
            name = "b"
            version = "1.0.0"
            dependencies = ["a 2.0.0"]
            [[package]]
            name = "of-tests"
            version = "1.0.0"
        "#;
        let manifest = SourceFile {
            path: "crates/mainstay/Cargo.toml".to_owned(),
            text: "[dependencies]\na = \"2\"\n[dev-dependencies]\nof-tests = \"1\"".to_owned(),
        };
        let manifests = manifests(&[manifest]).unwrap();
        let found = of_program(&lock.parse().unwrap(), &manifests);
        let names: Vec<String> = found.iter().map(|(n, v)| format!("{n} {v}")).collect();
        assert_eq!(names, ["a 2.0.0", "b 1.0.0", "mainstay 0.1.0"]);
    }

    #[test]
    fn more_packages_than_the_limit_are_reported() {
        assert_eq!(judge(PACKAGES_MAX), None);
        assert!(judge(PACKAGES_MAX + 1).unwrap().contains("the limit is"));
    }
}
