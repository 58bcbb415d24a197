//! The `Warning` headers of a response (kubectl.md 0.6).

use std::sync::{Mutex, PoisonError};

use http::header::{HeaderName, HeaderValue, WARNING};

/// Maximum number of characters of all texts together. Above the limit each text is shortened.
const CHARACTERS_MAX: usize = 4096;
/// Maximum number of characters of a shortened text.
const CUT_CHARACTERS: usize = 256;

/// The warnings of one request, from any handler. A refusal contains the warnings, too. Each text occurs once.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(crate) fn add(&self, texts: impl IntoIterator<Item = String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for text in texts {
            // Further warnings would never be sent.
            let is_full =
                cut(&all).map(|text| text.chars().count()).sum::<usize>() >= CHARACTERS_MAX;
            if is_full {
                return;
            }
            if !text.is_empty() && !all.contains(&text) {
                all.push(text);
            }
        }
    }

    /// A `Warning` header for each text.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let characters: usize = all.iter().map(|text| text.chars().count()).sum();
        let texts: Vec<&str> = if characters > CHARACTERS_MAX {
            cut(&all).collect()
        } else {
            all.iter().map(String::as_str).collect()
        };
        let values = texts
            .into_iter()
            .filter_map(|text| HeaderValue::from_bytes(value(text).as_bytes()).ok());
        values.map(|value| (WARNING, value)).collect()
    }
}

fn cut(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().map(|text| {
        let end = text.char_indices().nth(CUT_CHARACTERS);
        end.map_or(text.as_str(), |(end, _)| text.get(..end).unwrap_or(text))
    })
}

/// The value of a `Warning` header, quoted as RFC 7234 requires.
fn value(text: &str) -> String {
    let mut value = String::from("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                value.push('\\');
                value.push(c);
            }
            c if c.is_control() => value.push(' '),
            c => value.push(c),
        }
    }
    value.push('"');
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(texts: &[String]) -> Vec<String> {
        let warnings = Warnings::default();
        warnings.add(texts.iter().cloned());
        let headers = warnings.headers().into_iter();
        headers
            .map(|(_, value)| String::from_utf8(value.as_bytes().to_vec()).unwrap_or_default())
            .collect()
    }

    #[test]
    fn warnings_are_quoted() {
        // kubectl.md 0.6
        assert_eq!(
            value("unknown field \"spec.foo\""),
            r#"299 - "unknown field \"spec.foo\"""#
        );
        assert_eq!(value("a\nb"), r#"299 - "a b""#);
    }

    #[test]
    fn each_text_is_said_once_in_whatever_language() {
        let texts = ["a", "", "größer", "a"].map(str::to_owned);
        assert_eq!(sent(&texts), [r#"299 - "a""#, r#"299 - "größer""#]);
    }

    #[test]
    fn of_too_much_each_text_is_cut() {
        let long = |number: usize| format!("{number:03}{}", "é".repeat(1000));
        let fits: Vec<String> = (0..4).map(long).collect();
        assert!(
            sent(&fits)
                .iter()
                .all(|value| value.contains(&"é".repeat(1000)))
        );
        let many: Vec<String> = (0..100_000).map(long).collect();
        let values = sent(&many);
        assert_eq!(values.len(), 16);
        for (number, value) in values.iter().enumerate() {
            assert_eq!(*value, format!("299 - \"{number:03}{}\"", "é".repeat(253)));
        }
    }
}
