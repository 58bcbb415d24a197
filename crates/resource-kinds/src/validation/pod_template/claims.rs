//! Validation of the devices that a pod claims (`resourceClaims`). Only the names are checked, because device drivers
//! are not supported.

use std::collections::BTreeSet;

use object_model::{FieldError, names};

use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;

/// Checks the claims of a pod.
pub(super) fn of_pod(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let mut unique = TextSet::default();
    for claim in spec.get("resourceClaims").items() {
        let name = claim.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !unique.insert(name.text()) {
            errors.push(name.duplicate());
        } else {
            errors.check_text(&name, names::dns_label);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|f| claim.get(f));
        match sources.iter().filter(|source| source.is_set()).count() {
            0 => {
                errors.push(claim.invalid(
                    "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                ))
            }
            1 => {}
            _ => errors.push(claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be \
                 specified",
            )),
        }
        for source in sources.iter().filter(|source| source.is_set()) {
            errors.check_text(source, names::dns_subdomain);
        }
    }
}

/// Checks the claims of the pod that a container uses: each claim once, as a whole or by request.
pub(super) fn of_container(
    list: &Field<'_, '_>,
    spec: &Field<'_, '_>,
    errors: &mut Vec<FieldError>,
) {
    if list.is_empty() {
        return;
    }
    let claims = spec.get("resourceClaims");
    let pod_claims: BTreeSet<String> = claims
        .items()
        .map(|claim| claim.get("name").text().to_owned())
        .collect();
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    for claim in list.items() {
        let (name, request) = (claim.get("name").text(), claim.get("request"));
        if name.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        errors.check_text_if_set(&request, names::dns_label);
        let whole = used.contains(&(name, ""));
        let some = used.iter().any(|(other, _)| *other == name);
        let again = whole || used.contains(&(name, request.text()));
        if again || (request.is_empty() && some) {
            let key = match request.text() {
                request if !request.is_empty() && !whole => format!("{name}/{request}"),
                _ => name.to_owned(),
            };
            errors.push(FieldError::duplicate(&claim.path(), key));
        }
        used.insert((name, request.text()));
        if !pod_claims.contains(name) {
            let mut missing = FieldError::not_found(&claim.path(), name);
            let names: Vec<&str> = pod_claims.iter().map(String::as_str).collect();
            let which = match names.as_slice() {
                [] => " which is empty".to_owned(),
                names => format!(": {}", names.join(", ")),
            };
            missing.detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            errors.push(missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn claims_are_named_once() {
        let spec = json!({"resourceClaims": [{"name": "a", "resourceClaimName": "x"},
            {"name": "a", "resourceClaimTemplateName": "y"}]});
        let mut errors = Vec::new();
        of_pod(&Field::root(&spec), &mut errors);
        let list = json!([{"name": "a", "request": "r"}, {"name": "a", "request": "r"},
            {"name": "a"}, {"name": "b"}, {}]);
        of_container(&Field::root(&list), &Field::root(&spec), &mut errors);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "resourceClaims[1].name: Duplicate value: \"a\"",
                "[1]: Duplicate value: \"a/r\"",
                "[2]: Duplicate value: \"a\"",
                "[3]: Not found: \"b\": must be one of the names in pod.spec.resourceClaims: a",
                "[4]: Required value",
            ]
        );
        let both = json!({"resourceClaims": [{"name": "a", "resourceClaimName": "x",
            "resourceClaimTemplateName": "y"}, {"name": "b"}]});
        let mut errors = Vec::new();
        of_pod(&Field::root(&both), &mut errors);
        assert!(errors[0].detail.starts_with("at most one of"));
        assert!(errors[1].detail.starts_with("must specify one of"));
    }
}
