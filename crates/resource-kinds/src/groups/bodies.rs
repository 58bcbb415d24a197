//! Kinds that exist only in requests and responses, and are never stored: reviews, and the bodies of sub-resources.

use json_tree::Value;

use crate::json::decode::{self, DecodeError};

/// The `apiVersion` and the kinds.
const BODIES: &[(&str, &str)] = &[
    ("v1", "Binding"),
    ("policy/v1", "Eviction"),
    ("autoscaling/v1", "Scale"),
    (AUTHENTICATION, "TokenRequest"),
    (AUTHENTICATION, "TokenReview"),
    (AUTHENTICATION, "SelfSubjectReview"),
    (AUTHORIZATION, "SubjectAccessReview"),
    (AUTHORIZATION, "LocalSubjectAccessReview"),
    (AUTHORIZATION, "SelfSubjectAccessReview"),
    (AUTHORIZATION, "SelfSubjectRulesReview"),
];

const AUTHENTICATION: &str = "authentication.k8s.io/v1";
const AUTHORIZATION: &str = "authorization.k8s.io/v1";

/// `apiVersion` and kind of all such objects.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    BODIES.iter().copied()
}

/// Decodes the body: types are checked, unknown fields are removed, `apiVersion` and `kind` are set.
///
/// # Errors
/// The mismatch, with the text of upstream's decoder; a kind that differs from the expected kind.
pub fn decode(kind: &str, mut object: Value) -> Result<Value, DecodeError> {
    let body = BODIES.iter().find(|(_, name)| *name == kind);
    let Some((api_version, _)) = body else {
        return Err(DecodeError::UnknownBody(kind.to_owned()));
    };
    let Some(map) = object.as_object_mut() else {
        return Err(DecodeError::BodyNotObject);
    };
    match map.get("kind") {
        None | Some(Value::Null) => {}
        Some(Value::String(sent)) if sent.is_empty() || sent == kind => {}
        Some(sent) => return Err(DecodeError::OtherKind(sent.to_string())),
    }
    map.insert("apiVersion".to_owned(), (*api_version).into());
    map.insert("kind".to_owned(), kind.into());
    // An object without a name needs no metadata.
    if map.get("metadata").is_none_or(Value::is_null) {
        map.insert("metadata".to_owned(), Value::Object(json_tree::Map::new()));
    }
    decode::decode(api_version, kind, object).inspect_err(|_| {
        cov_mark::hit!(findings_a2);
        cov_mark::hit!(findings_a7);
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::api_types::ApiTypes;
    use crate::kind::Body;

    #[test]
    fn bodies_have_the_types_of_their_kind() {
        cov_mark::check!(findings_a7);
        cov_mark::check!(findings_a2);
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
    /// Clients may send each body in protobuf. The options of a connection are in the query instead.
    #[test]
    fn every_body_of_a_sub_resource_is_decoded_and_has_its_types() {
        let all = crate::all(&crate::ClusterConfig::default());
        let parts = all.iter().flat_map(|kind| kind.info().subresources);
        let mut bodies = 0;
        for part in parts {
            let Body::Other {
                group,
                version,
                kind,
            } = part.body
            else {
                continue;
            };
            if kind.ends_with("Options") {
                continue;
            }
            let api_version = format!("{group}/{version}");
            let api_version = api_version.trim_start_matches('/');
            assert!(
                kinds().any(|listed| listed == (api_version, kind)),
                "{kind}"
            );
            let types = ApiTypes::published();
            assert!(types.of_kind(api_version, kind).is_some(), "{kind}");
            bodies += 1;
        }
        assert!(bodies > 5);
    }
}
