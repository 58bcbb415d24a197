//! Compares each situation in `golden/` with the explanation.
//!
//! `UPDATE_GOLDENS=1` writes the present explanations; commit only changes that are understood and intended.

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
        let (situation, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let explained = answer_of(situation);
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::write(&file, format!("{situation}---\n{explained}")).unwrap();
        } else if explained != expected {
            wrong.push(format!(
                "{}\nwanted:\n{expected}said:\n{explained}",
                file.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Only users get ages: the JSON output, and conditions, do not change while the cause does not change.
#[test]
fn the_answer_for_programs_is_the_same_a_second_later() {
    for situation in situations() {
        let question = question(&situation);
        let mut observed = parse(&situation);
        let json = |observed: &ObservedNamespace| question.ask(observed).json;
        let before = json(&observed);
        observed.now = observed
            .now
            .checked_add(SignedDuration::from_secs(1))
            .unwrap();
        assert_eq!(json(&observed), before, "{situation}");
    }
}

/// If any object is missing, because it is forbidden or was just deleted, an explanation is still complete: it has a
/// root cause and a remedy.
#[test]
fn any_part_may_be_missing() {
    for situation in situations() {
        let lines: Vec<&str> = situation.lines().collect();
        for left_out in 0..lines.len() {
            let mut rest = lines.clone();
            let line = rest.remove(left_out);
            let observed = parse(&rest.join("\n"));
            let explanation = question(&situation).ask(&observed);
            check(
                &explanation.explanations,
                &format!("{situation}without {line}"),
            );
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

/// The question and the formats of its answer.
struct Question<'g> {
    /// One object; `None` for all waiting objects.
    about: Option<(TargetKind, &'g str)>,
    /// Whether the JSON output is compared, too.
    json: bool,
}

struct Explained {
    explanations: Vec<Explanation>,
    text: String,
    json: Option<Value>,
}

impl Question<'_> {
    fn ask(&self, observed: &ObservedNamespace) -> Explained {
        let Some((kind, name)) = self.about else {
            let namespaces = std::slice::from_ref(observed);
            let all = Overview::of_cluster(&observed.cluster, namespaces, observed.now)
                .and(Overview::of_namespace(observed));
            return Explained {
                text: all.text(now()),
                json: Some(all.json()),
                explanations: all.explanations,
            };
        };
        let explained = explain(kind, name, observed);
        let text = explained
            .as_ref()
            .map(|explanation| explanation.text(now()));
        Explained {
            text: text.unwrap_or_else(|| "not found\n".to_owned()),
            json: explained.as_ref().map(Explanation::json),
            explanations: explained.into_iter().collect(),
        }
    }
}

fn question(situation: &str) -> Question<'_> {
    let question = situation.lines().find_map(|line| line.strip_prefix("why "));
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

fn check(explanations: &[Explanation], given: &str) {
    for chain in explanations.iter().flat_map(|answer_of| &answer_of.chains) {
        assert!(!chain.links.is_empty(), "a chain without links: {given}");
        assert!(
            !chain.remedy.text.is_empty(),
            "a cause without a remedy: {given}"
        );
    }
}

fn answer_of(situation: &str) -> String {
    let question = question(situation);
    let response = question.ask(&parse(situation));
    check(&response.explanations, situation);
    match response.json.filter(|_| question.json) {
        Some(json) => {
            let json = serde_json::to_string_pretty(&json).unwrap();
            format!("{}---\n{json}\n", response.text)
        }
        None => response.text,
    }
}
