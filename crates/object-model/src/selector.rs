//! Label selectors (from objects and from query strings) and field selectors.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::names;

/// Why a text or an object is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The query string does not parse.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A field selector does not parse.
    #[error("invalid selector: '{0}'; can't understand '{1}'")]
    FieldSyntax(String, String),
    /// A `matchExpressions` entry has an unknown operator.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

/// How a label is to compare.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// The label has one of the values.
    In(BTreeSet<String>),
    /// The label is missing or has none of the values.
    NotIn(BTreeSet<String>),
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The label is an integer above the given one.
    GreaterThan(i64),
    /// The label is an integer below the given one.
    LessThan(i64),
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is to compare.
    pub condition: Match,
}

impl Requirement {
    /// Whether a label with this value (`None` when missing) fulfils the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match &self.condition {
            Match::In(values) => value.is_some_and(|value| values.contains(value)),
            Match::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Match::Exists => value.is_some(),
            Match::DoesNotExist => value.is_none(),
            Match::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Match::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// Conditions on labels, all of which must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every set of labels.
    pub fn everything() -> Self {
        Self::all_of(Vec::new())
    }

    /// Matches no set of labels.
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Matches labels for which all requirements hold.
    pub fn all_of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// From a map of labels, each of which must be equal (`spec.selector` of a Service).
    pub fn from_labels(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        Self::all_of(
            pairs
                .map(|(key, value)| one_of(key, [value.as_str().unwrap_or_default()]))
                .collect(),
        )
    }

    /// From the JSON of a `metav1.LabelSelector`: null matches nothing, `{}` everything.
    ///
    /// # Errors
    /// An operator other than `In`, `NotIn`, `Exists` and `DoesNotExist`.
    pub fn from_json(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut all = Self::from_labels(&selector["matchLabels"]).requirements;
        for expression in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let key = expression["key"].as_str().unwrap_or_default();
            let values: BTreeSet<String> = expression["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let condition = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Match::In(values),
                "NotIn" => Match::NotIn(values),
                "Exists" => Match::Exists,
                "DoesNotExist" => Match::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            all.push(Requirement {
                key: key.to_owned(),
                condition,
            });
        }
        Ok(Self::all_of(all))
    }

    /// From a query string such as `app=web,tier in (a,b),!canary`.
    ///
    /// # Errors
    /// What does not parse, and keys or values that no label can have.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text).map(Self::all_of)
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether every set of labels matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether a JSON map of labels (null when there are none) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_by(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether an object's `metadata.labels` match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object["metadata"]["labels"])
    }

    /// Whether labels match that are found by a function.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds = |requirement: &Requirement| requirement.matches(label(&requirement.key));
        !self.nothing && self.requirements.iter().all(holds)
    }
}

fn one_of<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> Requirement {
    Requirement {
        key: key.to_owned(),
        condition: Match::In(values.into_iter().map(str::to_owned).collect()),
    }
}

impl fmt::Display for LabelSelector {
    /// The query string; the one that `status.selector` of a Scale shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let key = &requirement.key;
            let list = |values: &BTreeSet<String>| {
                values
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(",")
            };
            match &requirement.condition {
                Match::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
                Match::In(values) => write!(f, "{key} in ({})", list(values)),
                Match::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values)),
                Match::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
                Match::Exists => write!(f, "{key}"),
                Match::DoesNotExist => write!(f, "!{key}"),
                Match::GreaterThan(bound) => write!(f, "{key}>{bound}"),
                Match::LessThan(bound) => write!(f, "{key}<{bound}"),
            }?;
        }
        Ok(())
    }
}

/// The grammar of label selectors in query strings.
mod parse {
    use super::{BTreeSet, Match, Requirement, SelectorError, names};

    /// Splits off special characters; white space only separates.
    fn tokens(text: &str) -> Vec<String> {
        let mut tokens: Vec<String> = Vec::new();
        let mut word = String::new();
        let mut symbol = String::new();
        for character in text.chars() {
            let special = "=!(),<>".contains(character);
            if special && !word.is_empty() {
                tokens.push(std::mem::take(&mut word));
            }
            let joins = special && matches!((symbol.as_str(), character), ("=" | "!", '='));
            if !symbol.is_empty() && !joins {
                tokens.push(std::mem::take(&mut symbol));
            }
            if special {
                symbol.push(character);
            } else if !character.is_whitespace() {
                word.push(character);
            } else if !word.is_empty() {
                tokens.push(std::mem::take(&mut word));
            }
        }
        tokens.extend([word, symbol].into_iter().filter(|rest| !rest.is_empty()));
        tokens
    }

    struct Parser {
        tokens: Vec<String>,
        position: usize,
    }

    impl Parser {
        fn peek(&self) -> &str {
            self.tokens.get(self.position).map_or("", String::as_str)
        }

        fn next(&mut self) -> String {
            let token = self.peek().to_owned();
            self.position += 1;
            token
        }

        fn at_end(&self) -> bool {
            self.position >= self.tokens.len()
        }
    }

    fn found(token: &str, expected: &str) -> SelectorError {
        SelectorError::Syntax(format!("found '{token}', expected: {expected}"))
    }

    fn is_word(token: &str) -> bool {
        !token.is_empty() && !token.starts_with(['=', '!', '(', ')', ',', '<', '>'])
    }

    pub(super) fn selector(text: &str) -> Result<Vec<Requirement>, SelectorError> {
        let mut parser = Parser {
            tokens: tokens(text),
            position: 0,
        };
        let mut all = Vec::new();
        while !parser.at_end() {
            all.push(requirement(&mut parser)?);
            match parser.next().as_str() {
                "" => break,
                "," if is_word(parser.peek()) || parser.peek() == "!" => {}
                "," => return Err(found(parser.peek(), "identifier after ','")),
                other => return Err(found(other, "',' or 'end of string'")),
            }
        }
        Ok(all)
    }

    fn requirement(parser: &mut Parser) -> Result<Requirement, SelectorError> {
        let negated = parser.peek() == "!";
        if negated {
            parser.next();
        }
        let key = parser.next();
        if !is_word(&key) {
            return Err(found(&key, "identifier"));
        }
        if let Some(error) = names::qualified_name(&key).first() {
            let text = format!("<nil>: Invalid value: {key:?}: {error}");
            return Err(SelectorError::Syntax(text));
        }
        let condition = if negated {
            Match::DoesNotExist
        } else if parser.at_end() || parser.peek() == "," {
            Match::Exists
        } else {
            comparison(parser)?
        };
        for value in condition_values(&condition) {
            if let Some(error) = names::label_value(value).first() {
                let text = format!("values[0][{key}]: Invalid value: {value:?}: {error}");
                return Err(SelectorError::Syntax(text));
            }
        }
        Ok(Requirement { key, condition })
    }

    fn condition_values(condition: &Match) -> impl Iterator<Item = &String> {
        match condition {
            Match::In(values) | Match::NotIn(values) => Some(values),
            _ => None,
        }
        .into_iter()
        .flatten()
    }

    fn comparison(parser: &mut Parser) -> Result<Match, SelectorError> {
        let operator = parser.next();
        match operator.as_str() {
            "=" | "==" => Ok(Match::In(BTreeSet::from([single(parser)?]))),
            "!=" => Ok(Match::NotIn(BTreeSet::from([single(parser)?]))),
            "in" => Ok(Match::In(list(parser)?)),
            "notin" => Ok(Match::NotIn(list(parser)?)),
            ">" => Ok(Match::GreaterThan(integer(parser)?)),
            "<" => Ok(Match::LessThan(integer(parser)?)),
            other => Err(found(other, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn single(parser: &mut Parser) -> Result<String, SelectorError> {
        if parser.at_end() || parser.peek() == "," {
            return Ok(String::new());
        }
        let token = parser.next();
        if is_word(&token) {
            Ok(token)
        } else {
            Err(found(&token, "identifier"))
        }
    }

    fn integer(parser: &mut Parser) -> Result<i64, SelectorError> {
        let token = single(parser)?;
        token.parse().map_err(|_| {
            SelectorError::Syntax(format!(
                "values[0]: Invalid value: {token:?}: for 'Gt', 'Lt' operators, the value must \
                 be an integer"
            ))
        })
    }

    fn list(parser: &mut Parser) -> Result<BTreeSet<String>, SelectorError> {
        let open = parser.next();
        if open != "(" {
            return Err(found(&open, "'('"));
        }
        let mut values = BTreeSet::new();
        loop {
            let token = parser.next();
            match token.as_str() {
                "," | ")" => {
                    values.insert(String::new());
                    if token == ")" {
                        return Ok(values);
                    }
                    continue;
                }
                word if is_word(word) => values.insert(token),
                other => return Err(found(other, "',', ')' or identifier")),
            };
            match parser.next().as_str() {
                "," => {}
                ")" => return Ok(values),
                other => return Err(found(other, "',' or ')'")),
            }
        }
    }
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's label, for instance `metadata.name`.
    pub field: String,
    /// The value to compare with.
    pub value: String,
    /// Whether the values must be equal, or must differ.
    pub equal: bool,
}

/// Conditions on fields, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// From a query string such as `metadata.name=web,status.phase!=Failed`.
    ///
    /// # Errors
    /// A term without an operator, or a wrong escape.
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

    /// The conditions in the order given.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that the field must have, if some term says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let term = self
            .terms
            .iter()
            .find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }

    /// Whether an object matches, given its values by field.
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
    use serde_json::json;

    use super::*;

    #[test]
    fn query_strings_select_labels() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        for (text, wanted) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=b", false),
            ("app!=web", false),
            ("missing!=web", true),
            ("tier in (a, b)", true),
            ("tier notin (a,b)", false),
            ("missing notin (a)", true),
            ("app", true),
            ("!app", false),
            ("! missing , app", true),
            ("n>4,n<6", true),
            ("n > 5", false),
            ("empty=", false),
            ("in in (in)", false),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap().matches(&labels),
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_query_strings_are_refused() {
        for text in [
            "app in",
            "app in (a",
            "a=b=c",
            "a b",
            "=x",
            ",",
            "a,",
            "!",
            "a>x",
            "a b/c/d",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
        let error = LabelSelector::parse("app in a").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to parse requirement: found 'a', expected: '('"
        );
    }

    #[test]
    fn objects_select_labels() {
        let selector = LabelSelector::from_json(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["b", "a"]}],
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "app=web,tier in (a,b)");
        assert!(selector.matches(&json!({"app": "web", "tier": "b"})));
        assert!(
            !LabelSelector::from_json(&Value::Null)
                .unwrap()
                .matches(&json!({}))
        );
        assert!(
            LabelSelector::from_json(&json!({}))
                .unwrap()
                .matches(&Value::Null)
        );
        let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert!(LabelSelector::from_json(&wrong).is_err());
    }

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
        fn label_selectors_round_trip(
            keys in proptest::collection::btree_map(
                "[a-z]{1,8}", (0_u8..6, proptest::collection::btree_set("[a-z0-9]{0,5}", 1..4)),
                0..5)
        ) {
            let requirements = keys.into_iter().map(|(key, (kind, values))| Requirement {
                key,
                condition: match kind {
                    0 => Match::In(values),
                    1 => Match::NotIn(values),
                    2 => Match::Exists,
                    3 => Match::DoesNotExist,
                    4 => Match::GreaterThan(7),
                    _ => Match::LessThan(7),
                },
            });
            let selector = LabelSelector::all_of(requirements.collect());
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn field_selectors_round_trip(
            terms in proptest::collection::vec(("[a-z.]{1,8}", "\\PC{0,8}", any::<bool>()), 0..4)
        ) {
            let terms = terms.into_iter();
            let selector = FieldSelector {
                terms: terms.map(|(field, value, equal)| FieldTerm { field, value, equal }).collect(),
            };
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,24}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }
}
