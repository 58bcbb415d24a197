//! Rules on the documents: named paths, linked pages and linked headings exist, and pages for users name no
//! source files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;

/// Checks the documents in the root, in docs/ and in examples/.
pub fn check(root: &Path, files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut with_sources = Exceptions::new("documents.rs", WITH_SOURCES.iter().copied());
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let mut results = |text: String| {
            findings.push(Finding {
                file: file.path.clone(),
                text,
            });
        };
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for name in named_paths(&file.text) {
            if !root.join(name).exists() {
                results(format!("names `{name}`, which does not exist"));
            } else if is_for_users(&file.path)
                && name.starts_with("crates/")
                && !with_sources.allow_below(&file.path)
            {
                results(format!(
                    "names `{name}` to users; docs/contributing is the place"
                ));
            }
        }
        for link in linked_pages(&file.text) {
            if !root.join(folder).join(link).exists() {
                results(format!("links to {link}, which does not exist"));
            }
        }
    }
    findings.extend(with_sources.unneeded(files));
    findings.extend(lost_anchors(files));
    let text_of = |path: &str| {
        files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
            .unwrap_or("")
    };
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
const WITH_SOURCES: [&str; 5] = [
    "docs/benchmarks.md",
    "docs/contract/",
    "docs/contributing/",
    "docs/ecosystem.md",
    "docs/requests.md",
];

/// Whether a page is for users, apart from those in [`WITH_SOURCES`].
fn is_for_users(path: &str) -> bool {
    path.starts_with("docs/") || path.starts_with("examples/")
}

/// The targets of links inside of this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://"))
}

fn linked_pages(text: &str) -> impl Iterator<Item = &str> {
    links(text)
        .filter_map(|target| target.split('#').next())
        .filter(|page| page.ends_with(".md"))
}

/// Links to headings that their page does not have.
fn lost_anchors(files: &[SourceFile]) -> Vec<Finding> {
    let pages = || files.iter().filter(|file| file.path.ends_with(".md"));
    let anchors: BTreeMap<&str, BTreeSet<String>> = pages()
        .map(|file| (file.path.as_str(), anchors(&file.text)))
        .collect();
    let mut findings = Vec::new();
    for file in pages() {
        for link in links(&file.text) {
            let Some((page, anchor)) = link.split_once('#') else {
                continue;
            };
            let page = resolved(&file.path, page);
            let existing = anchors.get(page.as_str());
            if existing.is_some_and(|existing| !existing.contains(anchor)) {
                findings.push(Finding {
                    file: file.path.clone(),
                    text: format!("links to #{anchor}, a heading that {page} does not have"),
                });
            }
        }
    }
    findings
}

/// The path of a page that another page links to; an empty link is the page itself.
fn resolved(from: &str, link: &str) -> String {
    if link.is_empty() {
        return from.to_owned();
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors of the headings of a page: lower case, hyphens for spaces, no other punctuation.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if is_code || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let letters = heading.trim().to_lowercase();
        let retained = letters.chars().filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter => letter.is_alphanumeric().then_some(letter),
        });
        anchors.insert(retained.collect());
    }
    anchors
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
    fn links_to_missing_headings_are_findings() {
        let page = |text: &str| {
            let pages = [
                SourceFile::new("docs/a.md", text),
                SourceFile::new(
                    "docs/b/c.md",
                    "# One\n## The `two`, 100,000 times\n```\n# code\n```\n",
                ),
            ];
            lost_anchors(&pages).len()
        };
        assert_eq!(
            page("# Top\n[a](b/c.md#the-two-100000-times), [b](#top)"),
            0
        );
        assert_eq!(page("[a](b/c.md#three)"), 1);
        assert_eq!(page("[a](b/c.md#code)"), 1);
        assert_eq!(page("[b](#top)"), 1);
    }

    #[test]
    fn pages_for_users_are_told_from_others() {
        assert!(is_for_users("docs/storage.md") && is_for_users("examples/redis/README.md"));
        assert!(!is_for_users("README.md"));
    }

    #[test]
    fn paths_in_back_ticks_are_found() {
        let text =
            "see `crates/controller-planners/src/lib.rs` and `crates/<name>` and `cargo test`";
        assert_eq!(
            named_paths(text).collect::<Vec<_>>(),
            ["crates/controller-planners/src/lib.rs"]
        );
    }
}
