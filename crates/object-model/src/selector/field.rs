//! Field selectors: `metadata.name=web,status.phase!=Failed`.

use std::fmt;

use super::SelectorError;

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// For instance `metadata.name`.
    pub field: String,
    pub value: String,
    /// Whether the values must be equal (true) or must differ (false).
    pub equal: bool,
}

/// Conditions on fields, all of which must be true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses a query string such as `metadata.name=web,status.phase!=Failed`.
    ///
    /// # Errors
    /// A term without an operator, or an invalid escape.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let wrong = || SelectorError::FieldSyntax(text.to_owned(), term.clone());
            let (field, equal, value) = split_term(&term).ok_or_else(wrong)?;
            terms.push(FieldTerm {
                field: field.to_owned(),
                value: unescape(value).ok_or_else(wrong)?,
                equal,
            });
        }
        Ok(Self { terms })
    }

    pub fn exactly(field: &str, value: &str) -> Self {
        let term = FieldTerm {
            field: field.to_owned(),
            value: value.to_owned(),
            equal: true,
        };
        Self { terms: vec![term] }
    }

    /// The terms in their given order.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether the selector has no terms, so that it selects every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a term requires for the field; `None` if no term requires a value.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let term = self
            .terms
            .iter()
            .find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }

    /// Whether an object matches; `value` returns the object's value of a field.
    pub fn matches_by(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        self.terms
            .iter()
            .all(|term| (value(&term.field).unwrap_or_default() == term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}", term.field)?;
            for character in term.value.chars() {
                if matches!(character, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    parts
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let position = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(position);
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((field, equal, value));
        }
    }
    None
}

fn unescape(text: &str) -> Option<String> {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(next @ ('\\' | ',' | '=')) => result.push(next),
                _ => return None,
            },
            ',' | '=' => return None,
            other => result.push(other),
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_selected() {
        let selector = FieldSelector::parse("metadata.name=web,status.phase!=Failed").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("web"));
        let field = |name: &str| (name == "metadata.name").then(|| "web".to_owned());
        assert!(selector.matches_by(field));
        assert!(FieldSelector::parse("a").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
        assert!(FieldSelector::parse("a=b\\x").is_err());
        assert_eq!(
            FieldSelector::parse("a=b\\,c").unwrap().exact("a"),
            Some("b,c")
        );
    }

    proptest! {
        #[test]
        fn field_selectors_round_trip(
            terms in proptest::collection::vec(("[a-z.]{1,8}", "\\PC{0,8}", any::<bool>()), 0..4)
        ) {
            let term = |(field, value, equal)| FieldTerm { field, value, equal };
            let selector = FieldSelector { terms: terms.into_iter().map(term).collect() };
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,24}") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
