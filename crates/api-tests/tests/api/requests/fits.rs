//! The comparison of a reply with the fields that a row names.

use json_tree::Value;

/// Notes where `found` differs from what is `wanted`; `place` is where both stand.
pub fn fits(wanted: &Value, found: &Value, place: &str, wrong: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), _) => {
            for (name, wanted) in wanted {
                let place = format!("{place}.{name}");
                match (wanted, found.get(name)) {
                    (Value::Null, None | Some(Value::Null)) => {}
                    (Value::Null, Some(found)) => wrong.push(format!("{place} is there: {found}")),
                    (_, None) => wrong.push(format!("{place} is missing")),
                    (wanted, Some(found)) => fits(wanted, found, &place, wrong),
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                fits(wanted, found, &format!("{place}[{index}]"), wrong);
            }
        }
        (Value::Null, _) => {}
        (Value::String(wanted), _) if wanted == "*" => {}
        (Value::String(wanted), Value::String(found)) if fits_text(wanted, found) => {}
        (wanted, found) if wanted == found => {}
        (wanted, found) => wrong.push(format!("{place} is {found} instead of {wanted}")),
    }
}

/// Whether a text is the one wanted, in which `…` stands for any text and `*` alone for all.
pub fn fits_text(wanted: &str, found: &str) -> bool {
    if wanted == "*" {
        return true;
    }
    let mut parts = wanted.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else {
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
