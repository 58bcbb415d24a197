//! Parameters of requests.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::request::Query;

/// Selection and pagination of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListParams {
    /// Only objects with these labels.
    pub label_selector: Option<String>,
    /// Only objects with these fields.
    pub field_selector: Option<String>,
    /// The maximum number of objects in the response.
    pub limit: Option<u32>,
    /// The token from the previous page.
    pub continue_token: Option<String>,
}

impl ListParams {
    /// Selects only objects with these fields.
    pub fn fields(mut self, selector: &str) -> Self {
        self.field_selector = Some(selector.to_owned());
        self
    }

    /// Selects only objects with these labels.
    pub fn labels(mut self, selector: &str) -> Self {
        self.label_selector = Some(selector.to_owned());
        self
    }

    /// Limits the number of objects in the response.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Requests the page after the page with this token.
    pub fn continue_token(mut self, token: &str) -> Self {
        self.continue_token = Some(token.to_owned());
        self
    }

    /// The parameters for the next page; `token` is from the response.
    pub fn next(self, token: Option<String>) -> Option<Self> {
        let token = token.filter(|token| !token.is_empty());
        token.map(|token| self.continue_token(&token))
    }

    pub(crate) fn add_selectors(&self, query: &mut Query) {
        if let Some(fields) = &self.field_selector {
            query.append_pair("fieldSelector", fields);
        }
        if let Some(labels) = &self.label_selector {
            query.append_pair("labelSelector", labels);
        }
    }

    pub(crate) fn add(&self, query: &mut Query) {
        self.add_selectors(query);
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        if let Some(token) = &self.continue_token {
            query.append_pair("continue", token);
        }
    }
}

/// Parameters of a creation, or of a replacement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostParams {
    /// Whether the server only checks the request and stores nothing (`dryRun=All`).
    pub dry_run: bool,
    /// The manager of the written fields; if absent, the server derives it from the client's name.
    pub field_manager: Option<String>,
}

impl PostParams {
    pub(crate) fn add(&self, query: &mut Query) {
        add_write(query, self.dry_run, self.field_manager.as_deref());
    }
}

fn add_write(query: &mut Query, dry_run: bool, field_manager: Option<&str>) {
    if dry_run {
        query.append_pair("dryRun", "All");
    }
    if let Some(manager) = field_manager {
        query.append_pair("fieldManager", manager);
    }
}

/// Parameters of a patch, server-side apply included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchParams {
    /// Whether the server only checks the request and stores nothing (`dryRun=All`).
    pub dry_run: bool,
    /// Whether server-side apply takes over fields that other managers own.
    pub force: bool,
    /// The manager of the written fields.
    pub field_manager: Option<String>,
}

impl PatchParams {
    /// Parameters for server-side apply by the given manager.
    pub fn apply(manager: &str) -> Self {
        Self {
            field_manager: Some(manager.to_owned()),
            ..Self::default()
        }
    }

    /// Takes over fields that other managers own.
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    pub(crate) fn add(&self, query: &mut Query) {
        add_write(query, self.dry_run, self.field_manager.as_deref());
        if self.force {
            query.append_pair("force", "true");
        }
    }
}

/// A patch of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch<T> {
    /// Server-side apply.
    Apply(T),
    /// JSON patch: a list of operations.
    Json(T),
    /// JSON merge patch.
    Merge(T),
    /// Strategic merge patch.
    Strategic(T),
}

impl<T: Serialize> Patch<T> {
    /// The media type and the text of the patch.
    pub(crate) fn encode(&self) -> Result<(&'static str, Vec<u8>)> {
        let (content_type, patch) = match self {
            Self::Apply(patch) => ("application/apply-patch+yaml", patch),
            Self::Json(patch) => ("application/json-patch+json", patch),
            Self::Merge(patch) => ("application/merge-patch+json", patch),
            Self::Strategic(patch) => ("application/strategic-merge-patch+json", patch),
        };
        let patch = serde_json::to_vec(patch).map_err(Error::Json)?;
        Ok((content_type, patch))
    }
}

/// `DeleteOptions` of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteParams {
    /// Grace period in seconds; the object's own grace period if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<u32>,
    /// The treatment of dependents; the kind's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<PropagationPolicy>,
    /// The required state of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

impl DeleteParams {
    /// Deletes the object; the garbage collector deletes its dependents later.
    pub fn background() -> Self {
        Self::propagating(PropagationPolicy::Background)
    }

    /// Deletes the dependents first. The object keeps a finalizer until then.
    pub fn foreground() -> Self {
        Self::propagating(PropagationPolicy::Foreground)
    }

    /// Deletes the object and keeps its dependents.
    pub fn orphan() -> Self {
        Self::propagating(PropagationPolicy::Orphan)
    }

    fn propagating(policy: PropagationPolicy) -> Self {
        Self {
            propagation_policy: Some(policy),
            ..Self::default()
        }
    }

    /// Sets the grace period in seconds.
    pub fn grace_period(mut self, seconds: u32) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// Deletes the object only if it has this UID and resourceVersion; otherwise the request fails with 409.
    pub fn preconditions(mut self, preconditions: Preconditions) -> Self {
        self.preconditions = Some(preconditions);
        self
    }
}

/// The UID and the resourceVersion that an object must have to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// The resourceVersion that the object must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The UID that the object must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The treatment of a deleted object's dependents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PropagationPolicy {
    /// The dependents stay.
    Orphan,
    /// The dependents are deleted later.
    Background,
    /// The dependents are deleted first.
    Foreground,
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::request::uri;

    #[test]
    fn a_query_has_what_was_asked_for() {
        let params = ListParams::default()
            .labels("a=b")
            .fields("spec.nodeName=n")
            .limit(5)
            .continue_token("t/1");
        let expected = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn&labelSelector=a%3Db&limit=5\
                        &continue=t%2F1";
        assert_eq!(uri("/api/v1/pods", |query| params.add(query)), expected);
        let apply = PatchParams::apply("m").force();
        let expected = "/p?fieldManager=m&force=true";
        assert_eq!(uri("/p", |query| apply.add(query)), expected);
    }

    #[test]
    fn a_deletion_has_only_the_requested_options() {
        let json = |params: &DeleteParams| json_tree::to_value(params).unwrap();
        assert_eq!(json(&DeleteParams::default()), json!({}));
        let guarded = DeleteParams::orphan()
            .grace_period(0)
            .preconditions(Preconditions {
                uid: Some("u".to_owned()),
                resource_version: None,
            });
        assert_eq!(
            json(&guarded),
            json!({"gracePeriodSeconds": 0, "propagationPolicy": "Orphan",
                "preconditions": {"uid": "u"}})
        );
    }
}
