//! Rules on the documents: what they name must exist, and every crate must be on the map.

use std::path::Path;

use super::{Finding, SourceFile};

/// Checks the documents in the root, in docs/ and in examples/.
pub fn check(root: &Path, files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for name in named_paths(&file.text) {
            if !root.join(name).exists() {
                let text = format!("names `{name}`, which does not exist");
                findings.push(Finding {
                    file: file.path.clone(),
                    text,
                });
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_back_ticks_are_found() {
        let text = "see `crates/planners/src/lib.rs` and `crates/<name>` and `cargo test`";
        assert_eq!(
            named_paths(text).collect::<Vec<_>>(),
            ["crates/planners/src/lib.rs"]
        );
    }
}
