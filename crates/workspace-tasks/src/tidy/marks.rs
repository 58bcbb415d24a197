//! Marks of the findings: a mark in the product (`cov_mark::hit!(findings_r27)`) is in the guard that a finding
//! requires, and a test that checks it (`cov_mark::check!(findings_r27)`) fails unless it runs through that guard.
//!
//! A mark begins with the item (`findings_s1`, `findings_2_s34`); a finding with several guards has several marks with
//! a further word (`findings_s1_validation`). A finding without a mark is in [`UNMARKED`], with the reason.

use std::collections::{BTreeMap, BTreeSet};

use super::checkout::{Finding, SourceFile};
use super::citations;
use super::code;
use super::exceptions::Exceptions;

/// The reason why a finding has no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoMark {
    /// The guard runs in a container, another process or the kernel.
    OtherProcess,
    /// The guard runs on the threads of a server of the test's process; a mark counts on the thread of its test alone.
    OtherThread,
    /// The requirement is data: a row, a text, a document, a model.
    Data,
    /// The requirement is a property of much code (memory, time, absence of an error), which has no single guard.
    Property,
    /// The requirement is about tests, tools, packages and pages.
    Tool,
    /// A test of the same thread reaches the guard, but the guard has no mark yet.
    Later,
}

use NoMark::{Data, Later, OtherProcess, OtherThread, Property, Tool};

const UNMARKED: &[(NoMark, &str, &[&str])] = &[
    (
        OtherProcess,
        "findings",
        &[
            "S17", "S25", "S29", "R3", "R8", "R10", "R11", "R12", "R15", "C2", "C3", "C13", "U8",
            "U13",
        ],
    ),
    (
        OtherThread,
        "findings",
        &[
            "S7", "S8", "S9", "S18", "S27", "R13", "R19", "R20", "R22", "C7", "C15", "A1", "A8",
        ],
    ),
    (
        Data,
        "findings",
        &["S23", "S28", "C1", "C5", "C16", "C23", "C42", "C56", "A11"],
    ),
    (
        Property,
        "findings",
        &["S13", "R6", "C10", "C24", "A5", "A9", "A10"],
    ),
    (
        Tool,
        "findings",
        &["A6", "A16", "A17", "U1", "U2", "U7", "U11"],
    ),
    (
        Later,
        "findings",
        &[
            "R16", "R21", "R25", "C8", "A4", "A15", "U3", "U34", "U35", "U36",
        ],
    ),
    (
        OtherProcess,
        "findings-2",
        &["S45", "R26", "R28", "C26", "C31", "C32"],
    ),
    (
        OtherThread,
        "findings-2",
        &["E9", "C27", "C33", "C35", "C39"],
    ),
    (Data, "findings-2", &["C37", "C38"]),
    (Property, "findings-2", &["K6", "K12"]),
    (Tool, "findings-2", &["S48", "R39", "R40"]),
    (
        Later,
        "findings-2",
        &["R38", "I3", "I5", "C36", "E14", "K9"],
    ),
];

/// The file of this list.
const LIST: &str = "marks.rs";

/// Checks the marks of the product against those of the tests, and against the findings.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let (hits, checks) = (hits(files), checks(files));
    let mut findings = unpaired(&hits, &checks);
    findings.extend(files.iter().filter_map(enabled_in_product));
    let marked: BTreeSet<String> = hits.keys().filter_map(|mark| item(mark)).collect();
    let required: BTreeMap<String, bool> = citations::findings(files).into_iter().collect();
    for (mark, guards) in &hits {
        let is_required = item(mark).is_some_and(|item| required.contains_key(&item));
        if !is_required {
            findings.push(Finding {
                file: guards[0].clone(),
                text: format!("the mark {mark} does not begin with an item of the findings"),
            });
        }
    }
    let keys = UNMARKED.iter().flat_map(|(_, document, items)| {
        items.iter().map(move |item| format!("{document} {item}"))
    });
    let mut unmarked = Exceptions::new(LIST, keys);
    for (item, is_open) in &required {
        if !is_open && !marked.contains(item) && !unmarked.allow(item) {
            findings.push(Finding {
                file: "docs/contract".to_owned(),
                text: format!(
                    "no guard of {item} has a mark: add `cov_mark::hit!` to the guard and `cov_mark::check!` to its \
                     test, or give the reason in tidy/{LIST}"
                ),
            });
        }
    }
    findings.extend(unmarked.unneeded(files));
    findings
}

/// The marks of the product, with their files.
fn hits(files: &[SourceFile]) -> BTreeMap<String, Vec<String>> {
    let mut hits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        for mark in marks(&file.code, "cov_mark::hit!(") {
            hits.entry(mark).or_default().push(file.path.clone());
        }
    }
    hits
}

/// The marks that tests check, each with one of the files.
fn checks(files: &[SourceFile]) -> BTreeMap<String, String> {
    let mut checks = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let tests = code::masked(&file.tests_text());
        for macro_name in ["cov_mark::check!(", "cov_mark::check_count!("] {
            for mark in marks(&tests, macro_name) {
                checks.insert(mark, file.path.clone());
            }
        }
    }
    checks
}

fn marks(code: &str, macro_name: &str) -> Vec<String> {
    let calls = code.split(macro_name).skip(1);
    let name = |rest: &str| -> String {
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    calls.map(name).collect()
}

/// The marks without a test or without a guard, and those of several guards, of which a test proves none.
fn unpaired(
    hits: &BTreeMap<String, Vec<String>>,
    checks: &BTreeMap<String, String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (mark, guards) in hits {
        if !checks.contains_key(mark) {
            findings.push(Finding {
                file: guards[0].clone(),
                text: format!("no test checks the mark {mark}"),
            });
        }
        if guards.len() > 1 {
            findings.push(Finding {
                file: guards[1].clone(),
                text: format!("the mark {mark} is that of another guard, in {}", guards[0]),
            });
        }
    }
    for (mark, file) in checks {
        if !hits.contains_key(mark) {
            findings.push(Finding {
                file: file.clone(),
                text: format!("no guard has the mark {mark}"),
            });
        }
    }
    findings
}

/// A manifest that enables the marks in the product: there, they must be empty functions.
fn enabled_in_product(file: &SourceFile) -> Option<Finding> {
    if !file.path.ends_with("Cargo.toml") {
        return None;
    }
    let mut section = "";
    let enables = file.text.lines().any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let is_dependency = line.starts_with("cov-mark");
        match section {
            "[workspace.dependencies]" => {
                is_dependency && !line.contains("default-features = false")
            }
            "[dev-dependencies]" => false,
            _ => is_dependency && line != "cov-mark.workspace = true",
        }
    });
    enables.then(|| Finding {
        file: file.path.clone(),
        text: "cov-mark is enabled in the product, and not in its tests alone".to_owned(),
    })
}

/// The finding of a mark: `findings-2 S34` of `findings_2_s34_nodes`.
fn item(mark: &str) -> Option<String> {
    let rest = mark.strip_prefix("findings_")?;
    let (document, rest) = match rest.strip_prefix("2_") {
        Some(rest) => ("findings-2", rest),
        None => ("findings", rest),
    };
    let item = rest.split('_').next().unwrap_or_default();
    Some(format!("{document} {}", item.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&str, &str)]) -> Vec<String> {
        let read = |(path, text): &(&str, &str)| SourceFile::new(*path, *text);
        let files: Vec<SourceFile> = files.iter().map(read).collect();
        let findings = check(&files).into_iter();
        findings.map(|finding| finding.text).collect()
    }

    const DOCUMENT: (&str, &str) = (
        "docs/contract/findings.md",
        "- **S1** a\n- **S4** b\n- **U9** c",
    );
    const GUARD: &str =
        "fn a() { cov_mark::hit!(findings_s1); } fn b() { cov_mark::hit!(findings_s4_path); }";
    const TEST: &str =
        "fn t() { cov_mark::check!(findings_s1); cov_mark::check_count!(findings_s4_path, 2); }";

    #[test]
    fn marked_findings_are_proven() {
        let files = [
            DOCUMENT,
            ("crates/a/src/a.rs", GUARD),
            ("crates/a/tests/a.rs", TEST),
        ];
        assert_eq!(texts(&files), [""; 0]);
    }

    #[test]
    fn marks_come_in_pairs() {
        let only_guard = texts(&[DOCUMENT, ("crates/a/src/a.rs", GUARD)]);
        assert_eq!(
            only_guard,
            [
                "no test checks the mark findings_s1",
                "no test checks the mark findings_s4_path"
            ]
        );
        // The test comments the guard out, or names it in a text.
        let commented =
            "// cov_mark::hit!(findings_s1);\nfn a() { \"cov_mark::hit!(findings_s4_path)\"; }";
        let only_test = texts(&[
            DOCUMENT,
            ("crates/a/src/a.rs", commented),
            ("crates/a/tests/a.rs", TEST),
        ]);
        assert_eq!(only_test.len(), 4, "{only_test:?}");
        assert_eq!(only_test[0], "no guard has the mark findings_s1");
        let twice = format!("{GUARD} fn c() {{ cov_mark::hit!(findings_s1); }}");
        let twice = texts(&[
            DOCUMENT,
            ("crates/a/src/a.rs", &twice),
            ("crates/a/tests/a.rs", TEST),
        ]);
        assert_eq!(
            twice,
            ["the mark findings_s1 is that of another guard, in crates/a/src/a.rs"]
        );
    }

    #[test]
    fn a_finding_needs_a_mark_and_a_mark_a_finding() {
        let guard = "fn a() { cov_mark::hit!(findings_s99); }";
        let test = "fn t() { cov_mark::check!(findings_s99); }";
        let findings = texts(&[
            DOCUMENT,
            ("crates/a/src/a.rs", guard),
            ("crates/a/tests/a.rs", test),
        ]);
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings[0].contains("findings_s99 does not begin with an item"));
        assert!(findings[1].starts_with("no guard of findings S1 has a mark"));
        assert!(findings[2].starts_with("no guard of findings S4 has a mark"));
    }

    #[test]
    fn the_product_has_empty_marks() {
        let manifest = |text: &str| texts(&[("crates/a/Cargo.toml", text)]).len();
        assert_eq!(
            manifest(
                "[dependencies]\ncov-mark.workspace = true\n[dev-dependencies]\n\
                 cov-mark = { workspace = true, features = [\"enable\"] }\n"
            ),
            0
        );
        let enabled = "[dependencies]\ncov-mark = { workspace = true, features = [\"enable\"] }\n";
        assert_eq!(manifest(enabled), 1);
        assert_eq!(manifest("[workspace.dependencies]\ncov-mark = \"2\"\n"), 1);
    }

    #[test]
    fn a_mark_names_its_finding() {
        assert_eq!(item("findings_s1").as_deref(), Some("findings S1"));
        let second = item("findings_2_s34_nodes");
        assert_eq!(second.as_deref(), Some("findings-2 S34"));
        assert_eq!(item("other"), None);
    }
}
