//! Rules on the text of source files.

use std::collections::BTreeSet;

use super::checkout::{Finding, SourceFile, crate_names};
use super::dependencies::{DECISIONS, VOCABULARY};
use super::exceptions::Exceptions;

/// Above this number of lines, a file probably has two purposes.
const LINES_MAX: usize = 600;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Module names without a meaning.
const GRAB_BAGS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Forbidden names in pure crates, with their alternatives.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "take the data as an argument"),
    ("std::env", "take the setting as an argument"),
    ("std::net::TcpStream", "leave I/O to a service"),
    ("std::process", "leave processes to a service"),
    ("tokio", "leave I/O to a service"),
    ("rand::", "take the seed or the name as an argument"),
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime::now", "take `now` as an argument"),
    ("Timestamp::now", "take `now` as an argument"),
    ("Zoned::now", "take `now` as an argument"),
    (
        "HashMap",
        "use BTreeMap: its order is the same in every run",
    ),
    (
        "HashSet",
        "use BTreeSet: its order is the same in every run",
    ),
    ("tracing::", "return what happened; the caller logs it"),
    ("println!", "return the text"),
];

/// Checks every Rust file, and every file for words that do not belong.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kinds: BTreeSet<&str> = files.iter().filter_map(kind).collect();
    let mut long = Exceptions::new("sources.rs", LONG_FILES.iter().map(|(path, _)| *path));
    let mut with_unsafe = Exceptions::new("sources.rs", UNSAFE.iter().copied());
    for file in files {
        let mut report = |text: String| {
            findings.push(Finding {
                file: file.path.clone(),
                text,
            })
        };
        foreign_words(file, &mut report);
        conflict_markers(file, &mut report);
        if !file.path.ends_with(".rs") {
            continue;
        }
        shape(file, &kinds, &mut report);
        let lines = file.text.lines().count();
        if lines > LINES_MAX && !long.allow(&file.path) {
            report(format!(
                "{lines} lines: past {LINES_MAX} ask what two things it is"
            ));
        }
        if has_unsafe(&file.text) && !with_unsafe.allow_below(&file.path) {
            report("`unsafe` is for host-kernel and container-runtime alone".to_owned());
        }
        purity(file, &mut report);
        if !file.path.starts_with("crates/workspace-tasks/") {
            left_overs(file, &mut report);
        }
    }
    findings.extend(long.unneeded(files));
    findings.extend(with_unsafe.unneeded(files));
    findings
}

/// No registry's host name, and no path of a developer's machine.
fn foreign_words(file: &SourceFile, report: &mut impl FnMut(String)) {
    let hosts = [
        ["registry.npm", "js.org"],
        ["static.crates", ".io"],
        ["deb.debian", ".org"],
    ];
    for host in hosts {
        let host = host.concat();
        if file.text.contains(&host) {
            report(format!("names the package registry {host}"));
        }
    }
    let home = ["/wo", "rk/"].concat();
    if file.text.contains(&home) {
        report(format!("names a path of one machine: {home}"));
    }
}

/// No rest of a merge.
fn conflict_markers(file: &SourceFile, report: &mut impl FnMut(String)) {
    let is_marker = |line: &&str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
    if let Some(marker) = file.text.lines().find(is_marker) {
        report(format!("has a conflict marker of git: {marker}"));
    }
}

/// Files and directories that may contain `unsafe`: kernel calls, also those of the container runtime, and the
/// simulation's replacement of the system clock, which is not in the product.
const UNSAFE: &[&str] = &[
    "crates/container-runtime/",
    "crates/host-kernel/",
    "crates/cluster-simulation/src/system.rs",
];

/// The crates that may contain `unsafe`.
pub fn crates_with_unsafe() -> BTreeSet<String> {
    crate_names(UNSAFE)
}

/// The name of a kind's file, `groups/GROUP/NAME.rs` or `groups/GROUP/NAME/mod.rs`.
fn kind(file: &SourceFile) -> Option<&str> {
    let inside = file
        .path
        .strip_prefix("crates/resource-kinds/src/groups/")?;
    let inside = inside.strip_suffix(".rs")?;
    let name = inside
        .strip_suffix("/mod")
        .unwrap_or(inside)
        .rsplit('/')
        .next()?;
    file.text.contains("\nimpl Kind for ").then_some(name)
}

fn shape(file: &SourceFile, kinds: &BTreeSet<&str>, report: &mut impl FnMut(String)) {
    let parts = file.path.trim_end_matches(".rs").split('/');
    for part in parts {
        if GRAB_BAGS.contains(&part) {
            report(format!(
                "'{part}' says nothing: name the module by what it decides or stores"
            ));
        }
    }
    let in_api_server = file.path.starts_with("crates/kube-api-server/src/");
    let stem = file
        .path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs");
    if in_api_server && kinds.contains(stem) {
        report("the API server is generic: a kind's rules belong in resource-kinds".to_owned());
    }
}

fn has_unsafe(text: &str) -> bool {
    let word = ["unsa", "fe "].concat();
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
        .any(|line| {
            line.split(&word).skip(1).any(|rest| {
                ["{", "fn ", "impl ", "extern "]
                    .iter()
                    .any(|next| rest.starts_with(next))
            })
        })
}

fn purity(file: &SourceFile, report: &mut impl FnMut(String)) {
    let Some(name) = file
        .path
        .strip_prefix("crates/")
        .and_then(|rest| rest.split('/').next())
    else {
        return;
    };
    let in_source = file.path.contains("/src/");
    if !in_source || !(DECISIONS.contains(&name) || VOCABULARY.contains(&name)) {
        return;
    }
    for (word, instead) in IMPURE {
        if file.code.contains(word) {
            report(format!("{name} is pure and may not use {word}: {instead}"));
        }
    }
}

/// No stubs, and no tests that do not run.
fn left_overs(file: &SourceFile, report: &mut impl FnMut(String)) {
    for word in ["todo!(", "unimplemented!(", "#[ignore", "dbg!("] {
        if file.text.contains(word) {
            report(format!("left over: {word}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, text: &str) -> Vec<String> {
        check(&[SourceFile::new(path, text)])
            .into_iter()
            .map(|finding| finding.text)
            .collect()
    }

    #[test]
    fn a_planner_may_not_read_the_clock() {
        let findings = texts(
            "crates/controller-planners/src/x.rs",
            "let now = Timestamp::now();",
        );
        assert!(findings[0].contains("take `now` as an argument"));
    }

    #[test]
    fn a_planner_s_tests_may() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { use std::collections::HashMap; }";
        assert_eq!(
            texts("crates/controller-planners/src/x.rs", text),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_api_server_has_no_file_about_one_kind() {
        let files = [
            SourceFile::new(
                "crates/resource-kinds/src/groups/core/pod/mod.rs",
                "\nimpl Kind for Pod {}",
            ),
            SourceFile::new("crates/resource-kinds/src/groups/core/names.rs", ""),
            SourceFile::new("crates/kube-api-server/src/handlers/verbs/pod.rs", ""),
            SourceFile::new("crates/kube-api-server/src/handlers/verbs/names.rs", ""),
        ];
        let findings = check(&files);
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].file,
            "crates/kube-api-server/src/handlers/verbs/pod.rs"
        );
        assert!(findings[0].text.contains("generic"));
    }

    #[test]
    fn unsafe_code_is_found_outside_the_runtime() {
        let text = ["unsa", "fe { x() }"].concat();
        assert!(texts("crates/node-agent/src/x.rs", &text)[0].contains("container-runtime"));
        assert_eq!(
            texts("crates/container-runtime/src/x.rs", &text),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_rest_of_a_merge_is_found() {
        let text = format!("a\n{} HEAD\nb\n", "<".repeat(7));
        assert!(texts("docs/a.md", &text)[0].contains("conflict marker"));
        assert_eq!(texts("docs/a.md", "<< HEAD"), Vec::<String>::new());
    }

    #[test]
    fn grab_bags_are_refused() {
        assert!(texts("crates/controller-framework/src/utils.rs", "")[0].contains("says nothing"));
    }
}
