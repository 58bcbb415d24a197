//! Rules on the documents: named paths and linked pages exist, every crate is on the map, and pages for users
//! name no source files.

use std::path::Path;

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;

/// Checks the documents in the root, in docs/ and in examples/.
pub fn check(root: &Path, files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut with_sources = Exceptions::new("documents.rs", WITH_SOURCES.iter().copied());
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let mut found = |text: String| {
            findings.push(Finding {
                file: file.path.clone(),
                text,
            });
        };
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for name in named_paths(&file.text) {
            if !root.join(name).exists() {
                found(format!("names `{name}`, which does not exist"));
            } else if is_for_users(&file.path)
                && name.starts_with("crates/")
                && !with_sources.allow_below(&file.path)
            {
                found(format!(
                    "names `{name}` to users; docs/contributing is the place"
                ));
            }
        }
        for link in linked_pages(&file.text) {
            if !root.join(folder).join(link).exists() {
                found(format!("links to {link}, which does not exist"));
            }
        }
    }
    findings.extend(with_sources.unneeded(files));
    let text_of = |path: &str| {
        files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
            .unwrap_or("")
    };
    let map = text_of("ARCHITECTURE.md");
    for file in files {
        let name = file
            .path
            .strip_prefix("crates/")
            .and_then(|p| p.strip_suffix("/Cargo.toml"));
        if let Some(name) = name
            && !map.contains(name)
        {
            let text = format!("crate {name} is not on the map");
            findings.push(Finding {
                file: "ARCHITECTURE.md".to_owned(),
                text,
            });
        }
    }
    if !text_of("CHANGELOG.md").contains("## Unreleased") {
        let text = "has no section 'Unreleased'".to_owned();
        findings.push(Finding {
            file: "CHANGELOG.md".to_owned(),
            text,
        });
    }
    findings
}

/// Words in back ticks that look like paths of this repository.
fn named_paths(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|word| {
        let tops = ["crates/", "docs/", "examples/", ".ci/"];
        tops.iter().any(|top| word.starts_with(top))
            && !word.contains([' ', '<', '*', '{', '…', ':'])
    })
}

/// The folders for contributors, and the pages about measurements and tests: they name source files.
const WITH_SOURCES: [&str; 4] = [
    "docs/benchmarks.md",
    "docs/contract/",
    "docs/contributing/",
    "docs/requests.md",
];

/// Whether a page is for users, apart from those in [`WITH_SOURCES`].
fn is_for_users(path: &str) -> bool {
    path.starts_with("docs/") || path.starts_with("examples/")
}

/// The targets of links to pages of this repository.
fn linked_pages(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next())
        .filter(|page| page.ends_with(".md"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_pages_are_found() {
        let text = "[a](a.md), [b](https://example.com/b.md), [c](../c.md#d), `f(x)`";
        assert_eq!(linked_pages(text).collect::<Vec<_>>(), ["a.md", "../c.md"]);
    }

    #[test]
    fn pages_for_users_are_told_from_others() {
        assert!(is_for_users("docs/storage.md") && is_for_users("examples/redis/README.md"));
        assert!(!is_for_users("README.md"));
    }

    #[test]
    fn paths_in_back_ticks_are_found() {
        let text = "see `crates/planners/src/lib.rs` and `crates/<name>` and `cargo test`";
        assert_eq!(
            named_paths(text).collect::<Vec<_>>(),
            ["crates/planners/src/lib.rs"]
        );
    }
}
