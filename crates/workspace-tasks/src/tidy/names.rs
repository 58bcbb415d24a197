//! Types that other modules see carry their noun: `DeploymentPlan`, not `Plan`.

use super::checkout::{AROUND, Finding, SourceFile};
use super::code;
use super::imports;

/// The names that say nothing without a noun.
const BARE: [&str; 35] = [
    "Action", "Answer", "Case", "Change", "Decision", "Entry", "Form", "Found", "Held", "Item",
    "Kept", "Left", "Level", "Lookup", "Note", "Notice", "Outcome", "Place", "Plan", "Reach",
    "Record", "Refusal", "Seen", "Stage", "State", "Step", "Subject", "Taken", "Target", "Trouble",
    "Verdict", "View", "Wanted", "Way", "World",
];

/// Crates of others that have types of these names.
const OTHERS: [&str; 2] = ["hickory_proto", "std"];

/// The words that begin the declaration of a type.
const DECLARING: [&str; 5] = ["enum", "struct", "trait", "type", "union"];

/// Checks the types of the product: those that are public, and those that another file imports.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let product = files.iter().filter(|file| {
        let name = file.path.strip_prefix("crates/");
        let name = name.and_then(|path| path.split('/').next());
        name.is_some_and(|name| !AROUND.contains(&name))
    });
    let mut findings = Vec::new();
    for file in product {
        let mut names = declared(&file.code);
        names.extend(imports::imported_names(&file.code, &OTHERS));
        names.retain(|name| BARE.contains(name));
        names.sort_unstable();
        names.dedup();
        findings.extend(names.into_iter().map(|name| Finding {
            file: file.path.clone(),
            text: format!(
                "other modules see the type `{name}`, whose name says nothing there: put its noun \
                 before it"
            ),
        }));
    }
    findings
}

/// The types that are declared with a visibility.
fn declared(code: &str) -> Vec<&str> {
    let keywords = code.match_indices("pub").filter(|(at, _)| {
        let before = code[..*at].bytes().next_back();
        !before.is_some_and(code::is_word)
    });
    let names = keywords.filter_map(|(at, word)| {
        let rest = &code[at + word.len()..];
        let rest = match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1,
            None => rest,
        };
        let rest = rest.strip_prefix(' ')?;
        let (kind, rest) = rest.split_once(' ')?;
        let end = rest.bytes().position(|byte| !code::is_word(byte));
        DECLARING
            .contains(&kind)
            .then(|| &rest[..end.unwrap_or(rest.len())])
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_without_a_noun_are_found_where_others_see_them() {
        let findings = |path: &str, text: &str| check(&[SourceFile::new(path, text)]).len();
        let path = "crates/a/src/b.rs";
        for (text, times) in [
            ("pub struct Plan { a: B }", 1),
            ("pub(crate) enum Step<'a> {}", 1),
            ("pub(super) type State = u8;", 1),
            ("use super::{A, Outcome};", 1),
            ("use std::collections::hash_map::{Entry, HashMap};", 0),
            ("use crate::b::Place as NodePlace;", 0),
            ("pub struct NodePlan;", 0),
            ("struct Plan;", 0),
            ("impl A for B { type State = u8; }", 0),
            ("#[cfg(test)]\nmod tests { pub struct Plan; }", 0),
        ] {
            assert_eq!(findings(path, text), times, "{text}");
        }
        assert_eq!(
            findings("crates/cluster-simulation/src/b.rs", "pub struct Plan;"),
            0
        );
    }
}
