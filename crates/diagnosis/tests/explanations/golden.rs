//! Compares each situation in `golden/` with the answer to its question.
//!
//! `UPDATE_GOLDENS=1` writes what is said now; commit only what is understood and wanted.

use std::path::Path;

use diagnosis::{Explanation, ObservedNamespace, Overview, TargetKind, explain};
use jiff::SignedDuration;
use json_tree::Value;

use super::situation::{now, parse};

#[test]
fn each_situation_has_an_answer_that_leads_to_its_cause() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explanations/golden");
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

/// Ages are for users alone: programs, and conditions, get the same as long as the cause is.
#[test]
fn the_answer_for_programs_is_the_same_a_second_later() {
    for given in situations() {
        let question = question(&given);
        let mut observed = parse(&given);
        let json = |observed: &ObservedNamespace| question.ask(observed).json;
        let before = json(&observed);
        observed.now = observed
            .now
            .checked_add(SignedDuration::from_secs(1))
            .unwrap();
        assert_eq!(json(&observed), before, "{given}");
    }
}

/// If any object is missing, because it may not be read or was just deleted, there is an answer or
/// none, but never one without end or remedy.
#[test]
fn any_part_may_be_missing() {
    for given in situations() {
        let lines: Vec<&str> = given.lines().collect();
        for left_out in 0..lines.len() {
            let mut rest = lines.clone();
            let line = rest.remove(left_out);
            let observed = parse(&rest.join("\n"));
            let answer = question(&given).ask(&observed);
            check(&answer.answers, &format!("{given}without {line}"));
        }
    }
}

fn situations() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explanations/golden");
    let files = std::fs::read_dir(folder).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    texts
        .map(|text| text.split_once("---\n").unwrap().0.to_owned())
        .collect()
}

/// The question and its format.
struct Question<'g> {
    /// Of one object, or all that waits.
    about: Option<(TargetKind, &'g str)>,
    /// Whether the answer for programs is wanted, too.
    json: bool,
}

struct Answer {
    answers: Vec<Explanation>,
    text: String,
    json: Option<Value>,
}

impl Question<'_> {
    fn ask(&self, observed: &ObservedNamespace) -> Answer {
        let Some((kind, name)) = self.about else {
            let namespaces = std::slice::from_ref(observed);
            let all = Overview::of_cluster(&observed.cluster, namespaces, observed.now)
                .and(Overview::of_namespace(observed));
            return Answer {
                text: all.text(now()),
                json: Some(all.json()),
                answers: all.answers,
            };
        };
        let found = explain(kind, name, observed);
        let text = found.as_ref().map(|answer| answer.text(now()));
        Answer {
            text: text.unwrap_or_else(|| "not found\n".to_owned()),
            json: found.as_ref().map(Explanation::json),
            answers: found.into_iter().collect(),
        }
    }
}

fn question(given: &str) -> Question<'_> {
    let question = given.lines().find_map(|line| line.strip_prefix("why "));
    let mut words = question.unwrap().split_whitespace();
    let about = match words.next().unwrap() {
        "everything" => None,
        one => {
            let (kind, name) = one.split_once('/').unwrap();
            Some((TargetKind::called(kind).unwrap(), name))
        }
    };
    let json = words.next() == Some("json");
    Question { about, json }
}

fn check(answers: &[Explanation], given: &str) {
    for chain in answers.iter().flat_map(|answer| &answer.chains) {
        assert!(!chain.links.is_empty(), "a chain without links: {given}");
        assert!(
            !chain.remedy.text.is_empty(),
            "a cause without a remedy: {given}"
        );
    }
}

fn answer(given: &str) -> String {
    let question = question(given);
    let answer = question.ask(&parse(given));
    check(&answer.answers, given);
    match answer.json.filter(|_| question.json) {
        Some(json) => {
            let json = serde_json::to_string_pretty(&json).unwrap();
            format!("{}---\n{json}\n", answer.text)
        }
        None => answer.text,
    }
}
