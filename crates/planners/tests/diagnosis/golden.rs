//! Compares each situation in `golden/` with the answer to its question.
//!
//! `UPDATE_GOLDENS=1` writes what is said now; commit only what is understood and wanted.

use std::path::Path;

use planners::diagnosis::{TargetKind, explain};

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

fn answer(given: &str) -> String {
    let question = given.lines().find_map(|line| line.strip_prefix("why "));
    let mut words = question.unwrap().split_whitespace();
    let (kind, name) = words.next().unwrap().split_once('/').unwrap();
    let kind = match kind {
        "sts" => TargetKind::StatefulSet,
        "pod" => TargetKind::Pod,
        "pvc" => TargetKind::Claim,
        other => panic!("what is {other}?"),
    };
    let Some(answer) = explain(kind, name, &parse(given)) else {
        return "not found\n".to_owned();
    };
    for chain in &answer.chains {
        assert!(!chain.links.is_empty(), "a chain without links");
        assert!(!chain.remedy.is_empty(), "a cause without a remedy");
    }
    let text = answer.text(now());
    if words.next() == Some("json") {
        let json = serde_json::to_string_pretty(&answer.json()).unwrap();
        format!("{text}---\n{json}\n")
    } else {
        text
    }
}
