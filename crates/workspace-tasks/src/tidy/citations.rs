//! Citations of the contracts in `docs/contract`: each cited item exists, and each item that needs a
//! test is cited by a test.
//!
//! Tests cite as `statefulset.md 3.14, T6`, `kubectl.md 2.9 to 2.11` or `findings S3` (lists, `and`, ranges
//! with `to`, paragraph signs and a capital at the start of a sentence are understood), in a comment or a
//! golden file. The guards of findings also have marks (`marks`).

use std::collections::BTreeSet;

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;

/// A document with cited items.
struct Contract {
    /// Its file below `docs/contract`.
    file: &'static str,
    /// Its name in a citation.
    name: &'static str,
    /// The letters of its numbered items, in addition to paragraphs (`3.14`).
    letters: &'static [&'static str],
    /// The paragraphs and letters whose items tests must cite, with the last required number.
    required: &'static [(&'static str, u32)],
    /// Items of these that no test has to cite yet, each with the reason.
    open: &'static [(&'static str, &'static str)],
}

const ALL: u32 = u32::MAX;

const CONTRACTS: &[Contract] = &[
    Contract {
        file: "statefulset.md",
        name: "statefulset.md",
        letters: &["T"],
        required: &[
            ("1.", ALL),
            ("2.", ALL),
            ("3.", ALL),
            ("4.", ALL),
            ("5.", ALL),
            ("6.", ALL),
            ("7.", ALL),
            ("8.", ALL),
            ("T", 45),
        ],
        open: &[],
    },
    Contract {
        file: "kubectl.md",
        name: "kubectl.md",
        letters: &[],
        required: &[
            ("0.", ALL),
            ("1.", ALL),
            ("2.", ALL),
            ("3.", ALL),
            ("4.", ALL),
            ("5.", ALL),
            ("6.", ALL),
            ("7.", ALL),
            ("9.", ALL),
            ("10.", ALL),
        ],
        open: &[],
    },
    Contract {
        file: "seeds.md",
        name: "seeds.md",
        letters: &["C", "M"],
        required: &[("C", ALL), ("M", ALL)],
        open: &[],
    },
    Contract {
        file: "csi.md",
        name: "csi.md",
        letters: &[],
        required: &[
            ("1.", ALL),
            ("2.", ALL),
            ("3.", ALL),
            ("4.", ALL),
            ("5.", ALL),
            ("6.", ALL),
        ],
        open: &[],
    },
    Contract {
        file: "rollouts.md",
        name: "rollouts.md",
        letters: &["S", "R"],
        required: &[("S", ALL), ("R", ALL)],
        open: &[],
    },
    Contract {
        file: "findings.md",
        name: "findings",
        letters: &["S", "R", "C", "A", "U"],
        required: &[("S", ALL), ("R", ALL), ("C", ALL), ("A", ALL), ("U", ALL)],
        open: OPEN_FINDINGS,
    },
    Contract {
        file: "findings-2.md",
        name: "findings-2",
        letters: &["S", "R", "I", "E", "U", "C", "K"],
        required: &[
            ("S", ALL),
            ("R", ALL),
            ("I", ALL),
            ("E", ALL),
            ("U", ALL),
            ("C", ALL),
            ("K", ALL),
        ],
        open: OPEN_FINDINGS_2,
    },
];

const OPEN_FINDINGS: &[(&str, &str)] = &[
    ("C22", "the node's own port comes with nodes that join"),
    ("U9", "ext4 without quotas cannot limit a directory"),
    ("U14", "no test can tell whether English is easy to read"),
];

const OPEN_FINDINGS_2: &[(&str, &str)] = &[
    (
        "R35",
        "the rule about calls that wait shows it, in the folder of tidy itself",
    ),
    ("U15", OF_USE),
    ("U16", OF_USE),
    ("U17", OF_USE),
    ("U18", OF_USE),
    ("U19", OF_USE),
    ("U20", OF_USE),
    ("U21", OF_USE),
    ("U22", OF_USE),
    ("U23", OF_USE),
    ("U24", OF_USE),
    ("U25", OF_USE),
    ("U26", OF_USE),
    ("U27", OF_USE),
    ("U28", OF_USE),
    ("U29", OF_USE),
    ("U30", OF_USE),
    ("U31", OF_USE),
    ("U32", OF_USE),
    ("U33", OF_USE),
    ("K5", OF_THE_API),
    ("K7", OF_THE_API),
];

/// The reason of a finding of the second audit that is still to be corrected.
const OF_THE_API: &str =
    "a gap of custom resources and clients, which harms nobody else; not corrected yet";
const OF_USE: &str = "a gap of commands and pages; not corrected yet";

/// The checks themselves, whose tests cite items that do not exist.
const TIDY: &str = "crates/workspace-tasks/src/tidy/";

/// Checks that every citation resolves and that every required item is cited.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    CONTRACTS
        .iter()
        .flat_map(|contract| contract.check(files))
        .collect()
}

/// The required items of both lists of findings (`findings S1`), and whether each is still open.
pub(super) fn findings(files: &[SourceFile]) -> Vec<(String, bool)> {
    let lists = CONTRACTS
        .iter()
        .filter(|contract| contract.name.starts_with("findings"));
    let of_list = |contract: &Contract| {
        let items = contract.items(files).unwrap_or_default().into_iter();
        let required = items.filter(|item| contract.requires(item));
        let named = required.map(|item| {
            let is_open = contract
                .open
                .iter()
                .any(|(open, _)| *open == item.to_string());
            (format!("{} {item}", contract.name), is_open)
        });
        named.collect::<Vec<_>>()
    };
    lists.flat_map(of_list).collect()
}

impl Contract {
    /// The items that the document defines; `None` without the document.
    fn items(&self, files: &[SourceFile]) -> Option<BTreeSet<Item>> {
        let path = format!("docs/contract/{}", self.file);
        let document = files.iter().find(|file| file.path == path)?;
        let lines = document.text.lines();
        Some(lines.flat_map(|line| self.defined_in(line)).collect())
    }

    fn check(&self, files: &[SourceFile]) -> Vec<Finding> {
        let path = format!("docs/contract/{}", self.file);
        let Some(items) = self.items(files) else {
            let text = "is missing".to_owned();
            return vec![Finding { file: path, text }];
        };
        let sources = files.iter().filter(|file| is_source(file));
        let unknown = sources.flat_map(|file| {
            let cited = self.cited_in(&file.text).into_iter();
            cited
                .filter(|item| !items.contains(item))
                .map(|item| Finding {
                    file: file.path.clone(),
                    text: format!("cites {} {item}, which {path} does not have", self.name),
                })
                .collect::<Vec<_>>()
        });
        let tests = files.iter().filter_map(tests_in);
        let cited: BTreeSet<Item> = tests.flat_map(|text| self.cited_in(&text)).collect();
        let mut open = Exceptions::new("citations.rs", self.open.iter().map(|(item, _)| *item));
        let missing = items
            .iter()
            .filter(|item| self.requires(item) && !cited.contains(item))
            .filter(|item| !open.allow(&item.to_string()))
            .map(|item| Finding {
                file: path.clone(),
                text: format!("no test cites {} {item}", self.name),
            });
        let mut findings: Vec<Finding> = unknown.chain(missing).collect();
        findings.extend(open.unneeded(files));
        findings
    }

    fn requires(&self, item: &Item) -> bool {
        let mut required = self.required.iter();
        required.any(|(prefix, last)| *prefix == item.prefix && item.number <= *last)
    }

    /// The items that a line of the document defines: at its start, in a list to tick off, in the
    /// first column of a table, or in bold.
    fn defined_in(&self, line: &str) -> Vec<Item> {
        let start = line.trim_start_matches("- [ ] ").trim_start_matches("| ");
        let bold = line.split("**").skip(1).step_by(2);
        std::iter::once(start)
            .chain(bold)
            .filter_map(|text| self.item(text.split(' ').next()?))
            .collect()
    }

    /// The items that a text cites.
    fn cited_in(&self, text: &str) -> Vec<Item> {
        let mut results = Vec::new();
        let (first, rest) = self.name.split_at(1);
        let in_sentence = text.split(self.name).skip(1);
        let capital = format!("{}{rest}", first.to_uppercase());
        let at_start = text.split(&capital).skip(1);
        for after in in_sentence.chain(at_start) {
            let line = after.lines().next().unwrap_or_default();
            let mut last: Option<Item> = None;
            let mut run = false;
            let words = line.trim_start_matches('`').split([' ', ',']);
            for word in words.filter(|word| !word.is_empty()) {
                let word = word
                    .trim_start_matches('§')
                    .trim_end_matches([':', '.', ')', ';']);
                let Some(item) = self.item(word) else {
                    run = word == "to";
                    if run || word == "and" {
                        continue;
                    }
                    break;
                };
                let first = match &last {
                    Some(before) if run && before.prefix == item.prefix => before.number + 1,
                    _ => item.number,
                };
                results.extend((first..=item.number).map(|number| Item {
                    prefix: item.prefix.clone(),
                    number,
                }));
                last = Some(item);
                run = false;
            }
        }
        results
    }

    /// `3.14` as (`3.`, 14), `T6` as (`T`, 6).
    fn item(&self, word: &str) -> Option<Item> {
        let at = word.find('.').map_or(1, |dot| dot + 1);
        let (prefix, number) = word.split_at_checked(at)?;
        let number = number.parse().ok()?;
        let paragraph = prefix
            .strip_suffix('.')
            .is_some_and(|paragraph| paragraph.parse::<u32>().is_ok());
        (self.letters.contains(&prefix) || paragraph).then(|| Item {
            prefix: prefix.to_owned(),
            number,
        })
    }
}

/// A numbered item of a contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    /// The paragraph with its dot, or the letter.
    prefix: String,
    number: u32,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.prefix, self.number)
    }
}

/// Whether citations in the file have to resolve.
fn is_source(file: &SourceFile) -> bool {
    let cites = file.path.ends_with(".rs") || file.path.ends_with(".txt");
    cites && file.path.starts_with("crates/") && !file.path.starts_with(TIDY)
}

/// The parts of a file that are tests, if any is.
fn tests_in(file: &SourceFile) -> Option<String> {
    if !is_source(file) {
        return None;
    }
    Some(file.tests_text()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(name: &str) -> &'static Contract {
        let mut contracts = CONTRACTS.iter();
        contracts.find(|contract| contract.name == name).unwrap()
    }

    fn cited_from(name: &str, text: &str) -> String {
        let items = contract(name).cited_in(text);
        let items: Vec<String> = items.iter().map(Item::to_string).collect();
        items.join(" ")
    }

    fn cited(text: &str) -> String {
        cited_from("statefulset.md", text)
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
        assert_eq!(
            cited_from("kubectl.md", "kubectl.md 0.8, 10.1 to 10.3"),
            "0.8 10.1 10.2 10.3"
        );
        assert_eq!(cited_from("findings", "// findings S3, R1: two"), "S3 R1");
        assert_eq!(
            cited_from("findings", "/// Findings R7: at the start"),
            "R7"
        );
        assert_eq!(cited_from("findings", "the findings are sorted"), "");
    }

    #[test]
    fn items_are_defined_by_lines_rows_and_bold_words() {
        let defined = |name: &str, line: &str| -> Vec<String> {
            let items = contract(name).defined_in(line);
            items.iter().map(Item::to_string).collect()
        };
        assert_eq!(defined("statefulset.md", "3.14 Broken pods"), ["3.14"]);
        assert_eq!(defined("seeds.md", "| C4 | `kubectl get` |"), ["C4"]);
        assert_eq!(defined("seeds.md", "- [ ] M5 PVC `pv`"), ["M5"]);
        assert_eq!(
            defined("findings", "- **S1 uid −1 is root.** As **S2** and `S3`"),
            ["S1", "S2"]
        );
        assert!(defined("statefulset.md", "as in 3.14").is_empty());
    }

    #[test]
    fn only_tests_count() {
        let text = "// statefulset.md 1.1\n#[cfg(test)]\nmod tests {\n// statefulset.md 1.2\n}\n\
                    // statefulset.md 1.3";
        let part = |path: &str| tests_in(&SourceFile::new(path, text)).map(|part| cited(&part));
        assert_eq!(part("crates/a/src/b.rs").as_deref(), Some("1.2"));
        assert_eq!(part("crates/a/tests/b.rs").as_deref(), Some("1.1 1.2 1.3"));
        assert_eq!(part("docs/a.md"), None);
    }

    // findings A16
    #[test]
    fn what_does_not_resolve_and_what_nobody_cites_is_found() {
        let files = [
            SourceFile::new(
                "docs/contract/statefulset.md",
                "1.1 Names\n1.2 Ordinals\n9.1 Events",
            ),
            SourceFile::new("crates/a/tests/b.rs", "// statefulset.md 1.1, 1.7"),
        ];
        let results = contract("statefulset.md").check(&files);
        let texts: Vec<&str> = results
            .iter()
            .map(|finding| finding.text.as_str())
            .collect();
        assert_eq!(
            texts,
            [
                "cites statefulset.md 1.7, which docs/contract/statefulset.md does not have",
                "no test cites statefulset.md 1.2",
            ]
        );
        assert_eq!(contract("seeds.md").check(&files).len(), 1);
    }

    #[test]
    fn findings_have_tests_but_for_those_that_are_named() {
        let files = [
            SourceFile::new(
                "docs/contract/findings.md",
                "- **S1** a\n- **U14** b\n- **R9** c",
            ),
            SourceFile::new("crates/a/tests/b.rs", "// findings R9"),
        ];
        let results = contract("findings").check(&files);
        let texts: Vec<&str> = results
            .iter()
            .map(|finding| finding.text.as_str())
            .collect();
        assert_eq!(texts, ["no test cites findings S1"]);
    }
}
