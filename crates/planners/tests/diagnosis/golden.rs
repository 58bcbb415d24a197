//! Compares each situation in `golden/` with the answer to its question.
//!
//! `UPDATE_GOLDENS=1` writes what is said now; commit only what is understood and wanted.

use std::path::Path;

use jiff::SignedDuration;
use planners::diagnosis::{Evidence, Explanation, TargetKind, explain};

use crate::situation::{now, parse};

#[test]
fn each_situation_has_an_answer_that_leads_to_its_cause() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnosis/golden");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (given, wanted) = text.split_once("---\n").unwrap_or((&text, ""));
        let said = answer(given);
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::write(&file, format!("{given}---\n{said}")).unwrap();
        } else if said != wanted {
            wrong.push(format!(
                "{}\nwanted:\n{wanted}said:\n{said}",
                file.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Ages are for people alone: programs, and conditions, get the same as long as the cause is.
#[test]
fn the_answer_for_programs_is_the_same_a_second_later() {
    for given in situations() {
        let (kind, name, _) = question(&given);
        let mut evidence = parse(&given);
        let json = |evidence: &Evidence| explain(kind, name, evidence).map(|answer| answer.json());
        let before = json(&evidence);
        evidence.now = evidence
            .now
            .checked_add(SignedDuration::from_secs(1))
            .unwrap();
        assert_eq!(json(&evidence), before, "{given}");
    }
}

/// What is missing, because it may not be read or has just gone, leaves an answer or none, but
/// never one without end or remedy.
#[test]
fn any_part_may_be_missing() {
    for given in situations() {
        let lines: Vec<&str> = given.lines().collect();
        for left_out in 0..lines.len() {
            let mut rest = lines.clone();
            let line = rest.remove(left_out);
            let evidence = parse(&rest.join("\n"));
            let (kind, name, _) = question(&given);
            if let Some(answer) = explain(kind, name, &evidence) {
                check(&answer, &format!("{given}without {line}"));
            }
        }
    }
}

fn situations() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnosis/golden");
    let files = std::fs::read_dir(folder).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    texts
        .map(|text| text.split_once("---\n").unwrap().0.to_owned())
        .collect()
}

/// Kind, name, and whether the answer for programs is wanted, too.
fn question(given: &str) -> (TargetKind, &str, bool) {
    let question = given.lines().find_map(|line| line.strip_prefix("why "));
    let mut words = question.unwrap().split_whitespace();
    let (kind, name) = words.next().unwrap().split_once('/').unwrap();
    let kind = match kind {
        "sts" => TargetKind::StatefulSet,
        "pod" => TargetKind::Pod,
        "pvc" => TargetKind::Claim,
        other => panic!("what is {other}?"),
    };
    (kind, name, words.next() == Some("json"))
}

fn check(answer: &Explanation, given: &str) {
    for chain in &answer.chains {
        assert!(!chain.links.is_empty(), "a chain without links: {given}");
        assert!(
            !chain.remedy.text.is_empty(),
            "a cause without a remedy: {given}"
        );
    }
}

fn answer(given: &str) -> String {
    let (kind, name, json) = question(given);
    let Some(answer) = explain(kind, name, &parse(given)) else {
        return "not found\n".to_owned();
    };
    check(&answer, given);
    let text = answer.text(now());
    if json {
        let json = serde_json::to_string_pretty(&answer.json()).unwrap();
        format!("{text}---\n{json}\n")
    } else {
        text
    }
}
