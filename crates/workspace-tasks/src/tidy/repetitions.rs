//! Repetitions in product code: equal lines in two files are one piece of logic, of which a change would reach
//! one copy only.
//!
//! Lines count without indentation. Blank lines, comments, imports and lone punctuation do not count. The
//! head of a function ends a run: implementations of one trait have equal heads. Tests and the crates around
//! the product may repeat themselves.

use std::collections::BTreeMap;

use super::checkout::{AROUND, Finding, SourceFile};
use super::exceptions::Exceptions;

/// So many equal lines in a row are a repetition.
const LINES: usize = 6;

/// Folders whose files may repeat each other, each with the reason.
const EXEMPT: &[(&str, &str)] = &[(
    "crates/resource-kinds/src/groups/",
    "the facts of kinds are tables: equal facts of two kinds change apart",
)];

/// A line that counts, or [`HEAD`].
#[derive(Clone, Copy)]
struct Line<'t> {
    number: usize,
    text: &'t str,
}

/// The text of the head of a function.
const HEAD: &str = "";

/// A file with the lines that count.
struct Code<'t> {
    path: &'t str,
    lines: Vec<Line<'t>>,
}

/// Finds pairs of positions with equal lines.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let texts: Vec<(&str, String)> = files
        .iter()
        .filter(|file| is_product(&file.path))
        .map(|file| (file.path.as_str(), file.product_text()))
        .collect();
    let product: Vec<Code<'_>> = texts
        .iter()
        .map(|(path, text)| Code {
            path,
            lines: lines(text),
        })
        .collect();
    let mut exempt = Exceptions::new("repetitions.rs", EXEMPT.iter().map(|(folder, _)| *folder));
    let mut positions: BTreeMap<Vec<&str>, (usize, usize)> = BTreeMap::new();
    let mut findings = Vec::new();
    for (index, code) in product.iter().enumerate() {
        let mut last: Option<(usize, usize)> = None;
        for (start, window) in code.lines.windows(LINES).enumerate() {
            let texts: Vec<&str> = window.iter().map(|line| line.text).collect();
            if texts.contains(&HEAD) {
                continue;
            }
            let Some(&(other, first)) = positions.get(&texts) else {
                positions.insert(texts, (index, start));
                continue;
            };
            let goes_on = last == Some((other, first.wrapping_sub(1)));
            last = Some((other, first));
            let itself = other == index && start < first + LINES;
            let source = &product[other];
            if goes_on || itself {
                continue;
            }
            if are_exempt(code.path, source.path) {
                exempt.allow_below(code.path);
                continue;
            }
            let (here, there) = (window[0].number, source.lines[first].number);
            findings.push(Finding {
                file: code.path.to_owned(),
                text: format!(
                    "line {here}: {LINES} lines or more are the same as in {}:{there}; make one of two",
                    source.path
                ),
            });
        }
    }
    findings.extend(exempt.unneeded(files));
    findings
}

fn is_product(path: &str) -> bool {
    let Some((name, rest)) = path
        .strip_prefix("crates/")
        .and_then(|path| path.split_once('/'))
    else {
        return false;
    };
    rest.starts_with("src/") && rest.ends_with(".rs") && !AROUND.contains(&name)
}

fn are_exempt(one: &str, other: &str) -> bool {
    let mut folders = EXEMPT.iter();
    folders.any(|(folder, _)| one.starts_with(folder) && other.starts_with(folder))
}

/// The lines that count.
fn lines(text: &str) -> Vec<Line<'_>> {
    let (mut in_import, mut in_head) = (false, false);
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let text = line.trim();
        let number = index + 1;
        if in_head || is_head(text) {
            if !in_head {
                findings.push(Line { number, text: HEAD });
            }
            in_head = !text.ends_with(['{', '}', ';']);
            continue;
        }
        let starts = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
        if in_import || starts.iter().any(|start| text.starts_with(start)) {
            in_import = !text.ends_with(';');
            continue;
        }
        let says = text.contains(|letter: char| letter.is_alphanumeric());
        if says && !text.starts_with("//") {
            findings.push(Line { number, text });
        }
    }
    findings
}

/// Whether the head of a function begins in this line.
fn is_head(text: &str) -> bool {
    let before =
        |word: &&str| matches!(*word, "const" | "async" | "unsafe") || word.starts_with("pub");
    text.split(' ').find(|word| !before(word)) == Some("fn")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(count: usize) -> String {
        let lines = (0..count).map(|number| format!("    step({number});\n\n    // why\n"));
        lines.collect()
    }

    #[test]
    fn a_run_of_equal_lines_is_found_once() {
        let first = SourceFile::new(
            "crates/a/src/b.rs",
            format!("fn one() {{\n{}}}\n", body(20)),
        );
        let moved = format!("use x::{{\n    y,\n}};\nfn two() {{\n  {}}}\n", body(20));
        let second = SourceFile::new("crates/c/src/d.rs", moved);
        let findings = check(&[first, second]);
        let texts: Vec<&str> = findings
            .iter()
            .map(|finding| finding.text.as_str())
            .collect();
        assert_eq!(
            texts,
            ["line 5: 6 lines or more are the same as in crates/a/src/b.rs:2; make one of two"]
        );
    }

    #[test]
    fn short_runs_tests_and_exempt_folders_are_left_alone() {
        let long = || format!("fn a() {{\n{}}}\n", body(20));
        let pair = |one: &str, other: &str| {
            check(&[SourceFile::new(one, long()), SourceFile::new(other, long())]).len()
        };
        assert_eq!(pair("crates/a/src/b.rs", "crates/a/src/c.rs"), 1);
        assert_eq!(pair("crates/a/src/b.rs", "crates/a/tests/c.rs"), 0);
        assert_eq!(pair("crates/a/src/b.rs", "crates/a/src/tests.rs"), 0);
        assert_eq!(pair("crates/a/src/b.rs", "crates/fuzzing/src/c.rs"), 0);
        let (one, other) = ("apps/one.rs", "core/other.rs");
        let groups = "crates/resource-kinds/src/groups";
        assert_eq!(
            pair(&format!("{groups}/{one}"), &format!("{groups}/{other}")),
            0
        );
        let short = || body(LINES - 1);
        let short = [
            SourceFile::new("crates/a/src/b.rs", short()),
            SourceFile::new("crates/a/src/c.rs", short()),
        ];
        assert!(check(&short).is_empty());
        let tested = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", long());
        let tested = [
            SourceFile::new("crates/a/src/b.rs", long()),
            SourceFile::new("crates/a/src/c.rs", tested),
        ];
        assert!(check(&tested).is_empty());
    }

    #[test]
    fn equal_heads_of_functions_are_no_repetition() {
        let one = |name: &str| {
            let head = "    pub(crate) async fn admit(\n        &self,\n        request: &Request,\n        \
                        object: &mut Value,\n        cluster: &dyn Reader,\n    ) -> Result<(), Status> {\n";
            format!(
                "{}{head}{}    }}\n{head}        {name}\n    }}\n",
                body(1),
                body(LINES - 1)
            )
        };
        let files = [
            SourceFile::new("crates/a/src/b.rs", one("first()")),
            SourceFile::new("crates/a/src/c.rs", one("second()")),
        ];
        assert!(check(&files).is_empty());
        let lines = |text: &str| lines(text).len();
        assert_eq!(lines("fn a() {}\nfn b()\nwhere\n    A: B,\n{\n    c\n}"), 3);
        assert_eq!(lines("fn a(&self) -> B;\nlet f: fn(\nB);\n"), 3);
    }
}
