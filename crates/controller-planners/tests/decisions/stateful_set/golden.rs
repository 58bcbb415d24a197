//! Compares each situation in `golden/` with the plan for it.
//!
//! `UPDATE_GOLDENS=1` writes the present plans; commit only changes that are understood and intended.

use std::path::Path;

use controller_planners::stateful_set::{invariants, plan};

use super::situation::{describe, now, parse};

#[test]
fn each_situation_has_the_plan_that_the_specification_asks_for() {
    cov_mark::check!(findings_r1);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decisions/stateful_set/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (situation, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let observed = parse(situation);
        let plan = plan(&observed, now()).unwrap();
        let broken = invariants::violations(&observed, &plan, now());
        assert!(broken.is_empty(), "{}: {broken:?}", file.display());
        let planned = describe(&plan) + "\n";
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::write(&file, format!("{situation}---\n{planned}")).unwrap();
        } else if planned != expected {
            wrong.push(format!(
                "{}\nwanted:\n{expected}planned:\n{planned}",
                file.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
