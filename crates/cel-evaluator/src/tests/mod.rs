//! Expressions and their results, as the tests of cel-go and of k8s.io/apiserver state them.

mod costs;
mod kubernetes;
mod language;
mod libraries;

use crate::{Evaluation, Names, Program, Value, Variables, environment};

fn program(source: &str, variables: &[&str]) -> Result<Program, String> {
    let parsed = environment()
        .compile(source)
        .map_err(|error| error.to_string())?;
    let names = Names {
        variables,
        constructs: |name| name == "Object" || name.starts_with("Object."),
        duration_sums: &Default::default(),
    };
    Program::compile(parsed.expression(), names).map_err(|error| error.to_string())
}

fn evaluation(source: &str, variables: &[(&str, Value)]) -> Result<Evaluation, String> {
    let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
    let program = program(source, &names)?;
    let mut all = Variables::default();
    for (name, value) in variables {
        all.insert(name, value.clone());
    }
    Ok(program.evaluate(&all, 1_000_000))
}

fn result(source: &str, variables: &[(&str, Value)]) -> Result<Value, String> {
    evaluation(source, variables)?
        .result
        .map_err(|error| error.to_string())
}

/// Asserts that each expression is true.
fn assert_true(sources: &[&str], variables: &[(&str, Value)]) {
    for source in sources {
        let value = result(source, variables);
        assert!(
            matches!(value, Ok(Value::Bool(true))),
            "{source}: {value:?}"
        );
    }
}

/// Asserts that the error of each expression contains a text.
fn assert_errors(cases: &[(&str, &str)], variables: &[(&str, Value)]) {
    for (source, expected) in cases {
        let error = result(source, variables).expect_err(source);
        assert!(error.contains(expected), "{source}: {error}");
    }
}
