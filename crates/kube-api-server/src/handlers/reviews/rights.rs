//! The four access reviews (kubectl.md 6.4).

use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, FieldSelector, Status};

use super::texts;
use crate::access::authorize::{self, AuthorizationAttributes, Authorizer};
use crate::catalog::virtual_resources::AUTHORIZATION;
use crate::http::user::UserInfo;

/// The status of a SelfSubjectAccessReview.
pub(super) fn self_review(
    authorizer: &Authorizer,
    user: &UserInfo,
    review: &Value,
) -> Result<Value, Status> {
    decide(authorizer, user, review, "SelfSubjectAccessReview")
}

/// The status of a SubjectAccessReview or a LocalSubjectAccessReview.
pub(super) fn of_subject(
    authorizer: &Authorizer,
    namespace: &str,
    review: &Value,
) -> Result<Value, Status> {
    let spec = &review["spec"];
    let kind = review["kind"].as_str().unwrap_or_default();
    let name = spec["user"].as_str().unwrap_or_default();
    let groups = texts(&spec["groups"]);
    if name.is_empty() && groups.is_empty() {
        let field = FieldPath::root("spec").child("user");
        let detail = "at least one of user or group must be specified";
        let error = FieldError::invalid(&field, "", detail);
        return Err(Status::invalid(AUTHORIZATION, kind, "", &[error]));
    }
    let inner = spec["resourceAttributes"]["namespace"]
        .as_str()
        .unwrap_or_default();
    if kind == "LocalSubjectAccessReview" && inner != namespace {
        let field = FieldPath::root("spec")
            .child("resourceAttributes")
            .child("namespace");
        let detail = format!("must match metadata.namespace: {namespace}");
        let error = FieldError::invalid(&field, inner, detail);
        return Err(Status::invalid(AUTHORIZATION, kind, "", &[error]));
    }
    decide(authorizer, &UserInfo::new(name, groups), review, kind)
}

fn decide(
    authorizer: &Authorizer,
    user: &UserInfo,
    review: &Value,
    kind: &str,
) -> Result<Value, Status> {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        let field = FieldPath::root("spec").child("resourceAttributes");
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let error = FieldError::invalid(&field, Value::Null, detail);
        return Err(Status::invalid(AUTHORIZATION, kind, "", &[error]));
    }
    let errors = selector_errors(resource);
    if !errors.is_empty() {
        return Err(Status::invalid(AUTHORIZATION, kind, "", &errors));
    }
    let text = |field: &str| resource[field].as_str().unwrap_or_default();
    let fields = fields(&resource["fieldSelector"]);
    let attributes = if resource.is_object() {
        AuthorizationAttributes {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            fields: Some(&fields),
            ..AuthorizationAttributes::default()
        }
    } else {
        AuthorizationAttributes {
            verb: path["verb"].as_str().unwrap_or_default(),
            path: Some(path["path"].as_str().unwrap_or_default()),
            ..AuthorizationAttributes::default()
        }
    };
    Ok(match authorize::decide(authorizer, user, &attributes) {
        Ok(()) => json!({"allowed": true}),
        Err(refusal) => match refusal.reason() {
            None => json!({"allowed": false}),
            Some(reason) => json!({"allowed": false, "reason": reason}),
        },
    })
}

/// The errors of a review's selectors: each selector must have either a text or requirements.
fn selector_errors(resource: &Value) -> Vec<FieldError> {
    let attributes = FieldPath::root("spec").child("resourceAttributes");
    let mut errors = Vec::new();
    for name in ["fieldSelector", "labelSelector"] {
        let selector = &resource[name];
        if !selector.is_object() {
            continue;
        }
        let path = attributes.child(name);
        let raw = selector["rawSelector"].as_str().unwrap_or_default();
        let has_requirements = selector["requirements"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
        match (raw.is_empty(), has_requirements) {
            (false, true) => errors.push(FieldError::invalid(
                &path.child("rawSelector"),
                raw,
                "may not specified at the same time as requirements",
            )),
            (true, false) => errors.push(FieldError::required(
                &path.child("requirements"),
                format!("when {path} is specified, requirements or rawSelector is required"),
            )),
            _ => {}
        }
    }
    errors
}

/// The field selector of a review, from its text or its requirements. An invalid selector selects everything. That
/// needs more rights, so the review allows less.
fn fields(selector: &Value) -> FieldSelector {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return FieldSelector::parse(raw).unwrap_or_default();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let mut exact = requirements.filter(|one| one["operator"] == "In");
    let exact = exact.find_map(|one| match texts(&one["values"]).as_slice() {
        [value] => Some(FieldSelector::exactly(one["key"].as_str()?, value)),
        _ => None,
    });
    exact.unwrap_or_default()
}

/// The status of a SelfSubjectRulesReview.
pub(super) fn rules(
    authorizer: &Authorizer,
    user: &UserInfo,
    review: &Value,
) -> Result<Value, Status> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = authorizer.rbac.rules(user, namespace);
    let (paths, resources): (Vec<_>, Vec<_>) = rules
        .into_iter()
        .partition(|rule| !rule.non_resource_urls.is_empty());
    let paths: Vec<Value> = paths
        .into_iter()
        .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}))
        .collect();
    Ok(json!({
        "resourceRules": resources,
        "nonResourceRules": paths,
        "incomplete": false,
    }))
}
