//! Every numbered item of the contracts (StatefulSets, clients, articles) is cited by a test.
//!
//! Tests cite as `statefulset.md 3.14, T6` or `kubectl.md 2.9 to 2.11` (lists, `and`, ranges with `to`
//! and paragraph signs are understood), in a comment or a golden file.

use std::collections::BTreeSet;

use super::{Finding, SourceFile};

/// A document whose items are cited.
struct Contract {
    /// Its name in a citation.
    document: &'static str,
    /// The items: a paragraph and the first and last numbers of a run in it.
    items: &'static [(&'static str, u32, u32)],
}

const CONTRACTS: &[Contract] = &[
    Contract {
        document: "statefulset.md",
        items: &[
            ("1.", 1, 8),
            ("2.", 1, 8),
            ("2.", 10, 17),
            ("3.", 1, 5),
            ("3.", 10, 16),
            ("3.", 20, 25),
            ("3.", 30, 35),
            ("3.", 40, 47),
            ("4.", 1, 13),
            ("5.", 1, 18),
            ("5.", 20, 24),
            ("6.", 1, 15),
            ("7.", 1, 4),
            ("8.", 1, 9),
            ("T", 1, 45),
        ],
    },
    Contract {
        document: "kubectl.md",
        items: &[
            ("0.", 1, 17),
            ("1.", 1, 10),
            ("2.", 1, 11),
            ("3.", 1, 6),
            ("4.", 1, 4),
            ("5.", 1, 10),
            ("6.", 1, 8),
            ("7.", 1, 8),
            ("9.", 1, 7),
            ("10.", 1, 6),
        ],
    },
    Contract {
        document: "seeds.md",
        items: &[("C", 1, 27), ("M", 1, 11)],
    },
];

/// Checks that every item is cited.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    CONTRACTS
        .iter()
        .flat_map(|contract| contract.check(files))
        .collect()
}

impl Contract {
    fn check(&self, files: &[SourceFile]) -> Vec<Finding> {
        let tests = files.iter().filter_map(tests_in);
        let cited: BTreeSet<String> = tests
            .flat_map(|text| citations(text, self.document))
            .collect();
        let missing = self.items().filter(|item| !cited.contains(item));
        missing
            .map(|item| Finding {
                file: "crates/xtask/src/tidy/citations.rs".to_owned(),
                text: format!("no test cites {} {item}", self.document),
            })
            .collect()
    }

    fn items(&self) -> impl Iterator<Item = String> {
        let runs = self.items.iter();
        runs.flat_map(|(prefix, first, last)| (*first..=*last).map(move |n| format!("{prefix}{n}")))
    }
}

/// The part of a file that is a test, if any is.
fn tests_in(file: &SourceFile) -> Option<&str> {
    let source = file.path.ends_with(".rs");
    if file.path.contains("/tests/") && (source || file.path.ends_with(".txt")) {
        return Some(&file.text);
    }
    let own = source && !file.path.starts_with("crates/xtask/");
    let start = file.text.find("#[cfg(test)]").filter(|_| own)?;
    Some(&file.text[start..])
}

/// The items of a document that a text cites.
fn citations(text: &str, document: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in text.split(document).skip(1) {
        let line = after.lines().next().unwrap_or_default();
        let mut last: Option<(String, u32)> = None;
        let mut run = false;
        let words = line.trim_start_matches('`').split([' ', ',']);
        for word in words.filter(|word| !word.is_empty()) {
            let word = word
                .trim_start_matches('§')
                .trim_end_matches([':', '.', ')', ';']);
            let Some((prefix, number)) = item(word) else {
                run = word == "to";
                if run || word == "and" {
                    continue;
                }
                break;
            };
            let first = match &last {
                Some((before, number)) if run && *before == prefix => number + 1,
                _ => number,
            };
            found.extend((first..=number).map(|n| format!("{prefix}{n}")));
            last = Some((prefix, number));
            run = false;
        }
    }
    found
}

/// `3.14` as (`3.`, 14), `T6` as (`T`, 6); `C` are commands and `M` manifests of the articles.
fn item(word: &str) -> Option<(String, u32)> {
    let at = word.find('.').map_or(1, |dot| dot + 1);
    let (prefix, number) = word.split_at_checked(at)?;
    let number = number.parse().ok()?;
    let paragraph = prefix
        .strip_suffix('.')
        .is_some_and(|p| p.parse::<u32>().is_ok());
    (["C", "M", "T"].contains(&prefix) || paragraph).then(|| (prefix.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cited(text: &str) -> String {
        citations(text, "statefulset.md").join(" ")
    }

    #[test]
    fn lists_runs_and_scenarios_are_understood() {
        assert_eq!(
            cited("/// statefulset.md 3.14, T6: two unhealthy pods"),
            "3.14 T6"
        );
        assert_eq!(
            cited("`statefulset.md` 6.7 to 6.9, T24: all causes"),
            "6.7 6.8 6.9 T24"
        );
        assert_eq!(cited("statefulset.md §3.16 and T3)."), "3.16 T3");
        assert_eq!(cited("# statefulset.md 5.2\n# 5.3"), "5.2");
        assert_eq!(
            cited("statefulset.md §6, kubectl.md 0.8; 3.14 of something"),
            ""
        );
        let clients = citations("kubectl.md 0.8, 10.1 to 10.3", "kubectl.md");
        assert_eq!(clients, ["0.8", "10.1", "10.2", "10.3"]);
    }

    #[test]
    fn only_tests_count() {
        let file = |path: &str, text: &str| SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let text = "// statefulset.md 1.1\n#[cfg(test)] // statefulset.md 1.2";
        let part = |path: &str| tests_in(&file(path, text)).map(cited);
        assert_eq!(part("crates/a/src/b.rs").as_deref(), Some("1.2"));
        assert_eq!(part("crates/a/tests/b.rs").as_deref(), Some("1.1 1.2"));
        assert_eq!(part("docs/a.md"), None);
    }

    #[test]
    fn an_item_that_nobody_cites_is_found() {
        let found = check(&[]);
        for item in ["statefulset.md 3.14", "kubectl.md 10.6"] {
            let wanted = format!("no test cites {item}");
            assert!(found.iter().any(|finding| finding.text == wanted));
        }
    }
}
