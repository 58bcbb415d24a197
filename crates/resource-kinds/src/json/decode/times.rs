//! Times in JSON.

use jiff::Timestamp;
use json_tree::Value;

use super::DecodeError;
use crate::json::api_types::ValueType;

/// Converts a time to UTC, in whole seconds or in microseconds.
pub(super) fn canonical(value: &mut Value, kind: ValueType) -> Result<(), DecodeError> {
    let Value::String(text) = value else {
        return Ok(());
    };
    if kind == ValueType::Time && is_canonical(text) {
        return Ok(());
    }
    let at: Timestamp = text
        .parse()
        .map_err(|error: jiff::Error| DecodeError::Time {
            text: text.clone(),
            reason: error.to_string(),
        })?;
    let form = match kind {
        ValueType::MicroTime => "%Y-%m-%dT%H:%M:%S%.6fZ",
        _ => "%Y-%m-%dT%H:%M:%SZ",
    };
    *text = at.strftime(form).to_string();
    Ok(())
}

/// Whether a text is certainly a valid time in canonical form, as most times are. Only days that every month has are
/// recognised.
fn is_canonical(text: &str) -> bool {
    let &[
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b'Z',
    ] = text.as_bytes()
    else {
        return false;
    };
    let within = |tens: u8, ones: u8, least: u8, most: u8| {
        tens.is_ascii_digit()
            && ones.is_ascii_digit()
            && (least..=most).contains(&((tens - b'0') * 10 + (ones - b'0')))
    };
    [y1, y2, y3, y4].iter().all(u8::is_ascii_digit)
        && within(m1, m2, 1, 12)
        && within(d1, d2, 1, 28)
        && within(h1, h2, 0, 23)
        && within(n1, n2, 0, 59)
        && within(s1, s2, 0, 59)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canonical_time_is_written_as_it_is() {
        let digits = "0123456789";
        let original = "2026-01-02T03:04:05Z";
        let mut accepted = 0;
        for offset in 0..original.len() {
            for other in digits.chars().chain("-:TtZz+. ".chars()) {
                let mut text = original.to_owned();
                text.replace_range(offset..=offset, &other.to_string());
                if is_canonical(&text) {
                    let at: Timestamp = text.parse().unwrap();
                    assert_eq!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), text);
                    accepted += 1;
                }
            }
        }
        assert!(accepted > 60, "{accepted}");
        for text in [
            "",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05.1Z",
            "2026-02-30T00:00:00Z",
        ] {
            assert!(!is_canonical(text), "{text}");
        }
    }
}
