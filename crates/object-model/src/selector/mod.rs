//! Label selectors (from objects and from query strings) and field selectors.

mod field;
mod parse;

use std::collections::BTreeSet;
use std::fmt;

use json_tree::Value;
use serde::Serialize;

pub use field::{FieldSelector, FieldTerm};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The query string cannot be parsed.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A field selector cannot be parsed.
    #[error("invalid selector: '{0}'; can't understand '{1}'")]
    FieldSyntax(String, String),
    /// A `matchExpressions` entry has an unknown operator.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

/// The comparison of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// The label has one of the values.
    In(BTreeSet<String>),
    /// The label is missing, or its value is not in the set.
    NotIn(BTreeSet<String>),
    /// The label exists.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The label is an integer greater than this number.
    GreaterThan(i64),
    /// The label is an integer less than this number.
    LessThan(i64),
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The key of the label.
    pub key: String,
    /// The condition on the label's value, or on its existence.
    pub condition: Match,
}

impl Requirement {
    /// Whether a label with this value (`None` if missing) fulfils the condition.
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

/// Conditions on labels, all of which must be true.
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

    pub fn all_of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_unstable();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Each label in the map must be equal (`spec.selector` of a Service).
    pub fn from_labels(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        Self::all_of(
            pairs
                .map(|(key, value)| one_of(key, [value.as_str().unwrap_or_default()]))
                .collect(),
        )
    }

    /// Parses the JSON of a `metav1.LabelSelector`: null matches nothing, `{}` matches everything.
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

    /// From a typed `metav1.LabelSelector`, as [`from_json`](Self::from_json); `None` if the selector is invalid. An
    /// absent selector matches nothing.
    pub fn of(selector: &impl Serialize) -> Option<Self> {
        let json = json_tree::to_value(selector).ok()?;
        Self::from_json(&json).ok()
    }

    /// Parses a query string such as `app=web,tier in (a,b),!canary`.
    ///
    /// # Errors
    /// The text cannot be parsed, or a key or value is invalid for a label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text).map(Self::all_of)
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether a JSON map of labels (null if there are none) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_by(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether an object's `metadata.labels` match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object["metadata"]["labels"])
    }

    /// Whether the labels that a lookup function returns match.
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
    /// Formats the query string, as in `status.selector` of a Scale.
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

#[cfg(test)]
mod tests {
    use json_tree::json;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_strings_select_labels() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        for (text, expected) in [
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
                expected,
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
        assert_eq!(LabelSelector::of(&wrong), None);
        let everything = LabelSelector::of(&json!({})).unwrap();
        assert!(everything.is_everything());
        assert_eq!(
            LabelSelector::of(&None::<Value>),
            Some(LabelSelector::nothing())
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
        fn parsing_never_panics(text in "\\PC{0,24}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
