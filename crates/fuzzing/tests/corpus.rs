//! Earlier findings are tried only if a target has the name of their directory.

use std::fs;
use std::process::Command;

#[test]
fn each_directory_of_findings_is_one_of_a_target() {
    let mut fuzzing = Command::new(env!("CARGO_BIN_EXE_fuzzing"));
    let listed = fuzzing.arg("--list").output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let targets: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(targets.contains(&"json"), "{targets:?}");
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    for directory in fs::read_dir(corpus).unwrap() {
        let name = directory.unwrap().file_name().into_string().unwrap();
        assert!(targets.contains(&&*name), "{name}: {targets:?}");
    }
}
