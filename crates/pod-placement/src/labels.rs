//! Conditions on labels: of nodes, and of pods by `metav1.LabelSelector`.

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as SelectorObject;
use object_model::LabelSelector;
use object_model::selector::{Match, Requirement};

/// Whether a node matches one of the selector's terms. A selector without terms matches nothing.
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| node_term_matches(term, node))
}

/// Whether a node matches all expressions of a term. A term without expressions matches nothing.
pub(crate) fn node_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    let by_label = |requirement: &NodeSelectorRequirement| {
        let value = labels.and_then(|labels| labels.get(&requirement.key));
        requirement_matches(requirement, value.map(String::as_str))
    };
    let by_field = |requirement: &NodeSelectorRequirement| {
        requirement.key == "metadata.name"
            && requirement_matches(requirement, node.metadata.name.as_deref())
    };
    expressions.iter().all(by_label) && fields.iter().all(by_field)
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let bound = || values.first().and_then(|bound| bound.parse::<i64>().ok());
    let condition = match requirement.operator.as_str() {
        "In" => Match::In(values.iter().cloned().collect()),
        "NotIn" => Match::NotIn(values.iter().cloned().collect()),
        "Exists" => Match::Exists,
        "DoesNotExist" => Match::DoesNotExist,
        "Gt" => match bound() {
            Some(bound) => Match::GreaterThan(bound),
            None => return false,
        },
        "Lt" => match bound() {
            Some(bound) => Match::LessThan(bound),
            None => return false,
        },
        _ => return false,
    };
    Requirement {
        key: requirement.key.clone(),
        condition,
    }
    .matches(value)
}

/// Whether labels match a selector, without a parsed copy of the selector; an absent or malformed selector matches
/// nothing.
pub(crate) fn selects<'l>(
    selector: Option<&SelectorObject>,
    label: impl Fn(&str) -> Option<&'l str>,
) -> bool {
    let Some(selector) = selector else {
        return false;
    };
    let mut equal = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    equal.all(|(key, value)| label(key) == Some(value))
        && expressions.all(|expression| {
            let value = label(&expression.key);
            let listed = || {
                let mut values = expression.values.iter().flatten();
                value.is_some_and(|value| values.any(|one| one == value))
            };
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The label keys of a term or constraint that its selector does not name. The API server adds the pod's values to the
/// selector when the pod is created (KEP-3633, KEP-3243); a pod of an earlier version has only the keys.
pub(crate) fn not_merged<'t>(
    keys: Option<&'t Vec<String>>,
    selector: Option<&'t SelectorObject>,
) -> impl Iterator<Item = &'t String> {
    let expressions = selector.and_then(|selector| selector.match_expressions.as_deref());
    let expressions = expressions.unwrap_or_default();
    let is_named = |key: &String| expressions.iter().any(|one| one.key == *key);
    keys.into_iter().flatten().filter(move |key| !is_named(key))
}

/// The value of a node's label.
pub(crate) fn of_node<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

/// Parses a selector of pods; an absent or malformed selector matches nothing.
pub(crate) fn parsed(selector: Option<&SelectorObject>) -> LabelSelector {
    LabelSelector::of(&selector).unwrap_or_else(LabelSelector::nothing)
}
