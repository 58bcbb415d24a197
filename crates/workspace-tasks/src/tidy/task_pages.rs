//! The parts of users' pages: each page about a task has a goal, prerequisites, the expected output and
//! troubleshooting. The first table of `docs/README.md` lists these pages.

use super::checkout::{Finding, SourceFile};

const LIST: &str = "docs/README.md";

/// The head of the table of reference pages, which have other parts.
const REFERENCE: &str = "| reference |";

/// The parts of a page, each with the texts of which a page has at least one.
const PARTS: [(&str, &[&str]); 4] = [
    ("goal", &["**Goal"]),
    ("prerequisites", &["\n## Prerequisites\n"]),
    ("expected output", &["xpected output", "\n```text\n"]),
    (
        "troubleshooting",
        &["\n## Troubleshooting\n", "\n## Common failures\n"],
    ),
];

/// Checks the pages in the list.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let text_of = |path: &str| {
        let file = files.iter().find(|file| file.path == path);
        file.map(|file| file.text.as_str())
    };
    let list = text_of(LIST).unwrap_or_default();
    let tasks = list.split_once(REFERENCE).map_or(list, |(tasks, _)| tasks);
    let rows = tasks.lines().filter(|line| line.starts_with("| "));
    let pages = rows.filter_map(|row| row.split_once("](")?.1.split_once(')'));
    let paths = pages.map(|(page, _)| format!("docs/{page}"));
    paths
        .flat_map(|path| {
            let text = text_of(&path).unwrap_or_default();
            let lacks =
                |(_, marks): &&(&str, &[&str])| !marks.iter().any(|mark| text.contains(mark));
            let missing = PARTS.iter().filter(lacks).map(|(part, _)| Finding {
                file: path.clone(),
                text: format!("is a page about a task and has no part `{part}`"),
            });
            missing.collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_found() {
        let list = "# Documentation\n\n| task | page |\n|---|---|\n| a | [A](a.md) |\n| b | [B](b.md) |\n\n\
                    | reference | content |\n|---|---|\n| [C](c.md) | c |\n";
        let whole = "**Goal:** a.\n\n## Prerequisites\n\nRoot.\n\n## Expected output\n\n## Troubleshooting\n";
        let findings = check(&[
            SourceFile::new(LIST, list),
            SourceFile::new("docs/a.md", whole),
            SourceFile::new("docs/b.md", whole.replace("## Prerequisites", "## Before")),
            SourceFile::new("docs/c.md", "# C\n"),
        ]);
        let findings: Vec<&str> = findings
            .iter()
            .map(|finding| finding.file.as_str())
            .collect();
        assert_eq!(findings, ["docs/b.md"]);
    }
}
