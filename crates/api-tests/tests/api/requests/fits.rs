//! The comparison of a response with the fields of a row.

use json_tree::Value;

/// Records the differences between `actual` and `expected`; `path` is the path of both.
pub fn fits(expected: &Value, actual: &Value, path: &str, wrong: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(expected), _) => {
            for (name, expected) in expected {
                let path = format!("{path}.{name}");
                match (expected, actual.get(name)) {
                    (Value::Null, None | Some(Value::Null)) => {}
                    (Value::Null, Some(actual)) => wrong.push(format!("{path} is there: {actual}")),
                    (_, None) => wrong.push(format!("{path} is missing")),
                    (expected, Some(actual)) => fits(expected, actual, &path, wrong),
                }
            }
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                fits(expected, actual, &format!("{path}[{index}]"), wrong);
            }
        }
        (Value::Null, _) => {}
        (Value::String(expected), _) if expected == "*" => {}
        (Value::String(expected), Value::String(actual)) if fits_text(expected, actual) => {}
        (expected, actual) if expected == actual => {}
        (expected, actual) => wrong.push(format!("{path} is {actual} instead of {expected}")),
    }
}

/// Whether a text matches the expected text, in which `…` matches any text, and `*` alone matches every text.
pub fn fits_text(expected: &str, actual: &str) -> bool {
    if expected == "*" {
        return true;
    }
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn texts_with_gaps_fit() {
    assert!(fits_text("a…c…", "abcd") && fits_text("…", "") && fits_text("*", "x"));
    assert!(!fits_text("a", "ab") && !fits_text("a…b", "a") && !fits_text("…b…c", "cb"));
}
