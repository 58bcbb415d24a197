//! Objects that are sent and answered, and never stored: reviews, and the bodies of sub-resources.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use serde_json::Value;

use crate::json::decode::decode as typed;

/// The type check of one kind.
type Decode = fn(Value) -> Result<Value, String>;

/// The kinds of such objects, with their `apiVersion`.
const BODIES: &[(&str, &str, Decode)] = &[
    ("v1", "Binding", typed::<Binding>),
    ("policy/v1", "Eviction", typed::<Eviction>),
    ("autoscaling/v1", "Scale", typed::<Scale>),
    (AUTHENTICATION, "TokenRequest", typed::<TokenRequest>),
    (AUTHENTICATION, "TokenReview", typed::<TokenReview>),
    (
        AUTHENTICATION,
        "SelfSubjectReview",
        typed::<SelfSubjectReview>,
    ),
    (
        AUTHORIZATION,
        "SubjectAccessReview",
        typed::<SubjectAccessReview>,
    ),
    (
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        typed::<LocalSubjectAccessReview>,
    ),
    (
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        typed::<SelfSubjectAccessReview>,
    ),
    (
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        typed::<SelfSubjectRulesReview>,
    ),
];

const AUTHENTICATION: &str = "authentication.k8s.io/v1";
const AUTHORIZATION: &str = "authorization.k8s.io/v1";

/// `apiVersion` and kind of all such objects.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    BODIES.iter().map(|(version, kind, _)| (*version, *kind))
}

/// Decodes such an object: types are checked, unknown fields removed. `apiVersion` and `kind` are
/// set.
///
/// # Errors
/// *Errors.* The mismatch, as upstream's decoder reports it; another kind than the expected one.
pub fn decode(kind: &str, mut object: Value) -> Result<Value, String> {
    let known = BODIES.iter().find(|(_, known, _)| *known == kind);
    let Some((api_version, _, read)) = known else {
        return Err(format!("no kind {kind:?} is registered"));
    };
    let Some(map) = object.as_object_mut() else {
        return Err("the body is not an object".to_owned());
    };
    match map.get("kind") {
        None | Some(Value::Null) => {}
        Some(Value::String(given)) if given.is_empty() || given == kind => {}
        Some(given) => return Err(format!("it is of kind {given}")),
    }
    map.insert("apiVersion".to_owned(), (*api_version).into());
    map.insert("kind".to_owned(), kind.into());
    // An object without a name has no metadata.
    if map.get("metadata").is_none_or(Value::is_null) {
        map.insert("metadata".to_owned(), Value::Object(serde_json::Map::new()));
    }
    read(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_have_the_types_of_their_kind() {
        // findings A2, A7
        for (kind, wrong) in [
            ("Binding", json!({"metadata": {"annotations": {"a": 1}}})),
            ("Binding", json!({"target": "n"})),
            ("TokenRequest", json!({"spec": "x"})),
            ("TokenRequest", json!({"spec": {"audiences": "x"}})),
            (
                "Eviction",
                json!({"deleteOptions": {"gracePeriodSeconds": "x"}}),
            ),
            ("Scale", json!({"spec": {"replicas": "x"}})),
            ("SubjectAccessReview", json!({"spec": {"groups": "x"}})),
            ("TokenReview", json!({"spec": []})),
            ("Binding", json!({"kind": "Eviction"})),
            ("Binding", json!([])),
            ("Pod", json!({})),
        ] {
            assert!(decode(kind, wrong.clone()).is_err(), "{kind} {wrong}");
        }
        let binding = json!({"target": {"name": "n"}, "other": 1});
        assert_eq!(
            decode("Binding", binding).unwrap(),
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {}, "target": {"name": "n"}})
        );
    }
}
