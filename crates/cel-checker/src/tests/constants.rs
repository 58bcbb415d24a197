use cel::common::ast::LiteralValue;

use super::*;
use crate::{Constant, ConstantKind, invalid_constants};

#[test]
fn literal_arguments_are_checked() {
    let is_valid = |constant: Constant<'_>| {
        let LiteralValue::String(text) = constant.literal else {
            return false;
        };
        match constant.kind {
            ConstantKind::Duration => text.inner().ends_with('s'),
            ConstantKind::Timestamp => text.inner().ends_with('Z'),
            ConstantKind::Pattern => text.inner() != ")",
        }
    };
    for (source, expected) in [
        ("duration('1s') < duration('2s')", ""),
        (
            "duration('1us') < duration('1')",
            "1:28 invalid duration argument",
        ),
        ("timestamp(-1) == null", "1:11 invalid timestamp argument"),
        (
            "[timestamp('x')].size() > 0",
            "1:12 invalid timestamp argument",
        ),
        (
            "x.text.matches(')') || {'a': true}.a",
            "1:16 invalid matches argument",
        ),
        (
            "xs.all(y, y.text.matches(')'))",
            "1:26 invalid matches argument",
        ),
        ("x.text.matches(x.text)", ""),
    ] {
        let program = parse(source);
        let checked = invalid_constants(program.expression(), program.source_info(), is_valid);
        let actual = checked.err().map_or(String::new(), |errors| {
            let error = &errors.errors[0];
            let at = error.position;
            format!("{}:{} {}", at.line, at.column, error.kind)
        });
        assert_eq!(actual, expected, "{source}");
    }
}
