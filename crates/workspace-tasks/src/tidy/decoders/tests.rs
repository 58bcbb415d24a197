//! Tests of the table of decoders.

use super::*;

/// findings A6
#[test]
fn a_decoder_that_nobody_feeds_is_found() {
    let names = |path: &str, text: &str| check(&[SourceFile::new(path, text)]).len();
    let decoder = "let value: Value = serde_json::from_slice(&bytes)?;";
    assert_eq!(names("crates/kube-api-server/src/new.rs", decoder), 1);
    assert_eq!(
        names("crates/kube-api-server/src/http/decode/mod.rs", decoder),
        0
    );
    assert_eq!(names("crates/api-tests/tests/api/new.rs", decoder), 0);
    assert_eq!(names("crates/end-to-end/src/new.rs", decoder), 0);
    let in_tests = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{ {decoder} }}");
    assert_eq!(names("crates/kube-api-server/src/new.rs", &in_tests), 0);
}

#[test]
fn targets_are_those_that_run() {
    let all = [
        SourceFile::new(
            "crates/fuzzing/src/targets/mod.rs",
            "pub const ALL: &[Target] = &[a::ONE,];",
        ),
        SourceFile::new(
            "crates/fuzzing/src/targets/a.rs",
            "pub const ONE: Target = Target {\n name: \"one\",\n};\n\
             pub const TWO: Target = Target {\n name: \"two\",\n};",
        ),
    ];
    assert_eq!(targets(&all), BTreeSet::from(["one"]));
    let missing = check(&all);
    assert!(
        missing
            .iter()
            .any(|finding| finding.text.contains("no target dns"))
    );
}
