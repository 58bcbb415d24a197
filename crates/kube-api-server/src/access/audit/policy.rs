//! The audit policy of `audit.k8s.io/v1`: the level and the stages of each request.

use object_model::yaml_error;
use serde::Deserialize;

use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;

/// The error of an audit policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The text is not YAML of the expected form. Unknown fields are errors.
    #[error("the audit policy does not parse: {0}")]
    Form(String),
    /// The file is of another kind or version.
    #[error("the audit policy is a {actual}, not a Policy of audit.k8s.io/v1")]
    Kind {
        /// The `kind` and the `apiVersion` of the file.
        actual: String,
    },
    /// An invalid value.
    #[error("the audit policy is wrong at {field}: {why}")]
    Value {
        /// The path of the field.
        field: String,
        why: String,
    },
}

/// `level` of a rule: the parts of a request that are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum AuditLevel {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl AuditLevel {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// A stage of a request at which an event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum AuditStage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl AuditStage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// The audit level and stages for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuditVerdict {
    pub(super) level: AuditLevel,
    pub(super) omit: Vec<AuditStage>,
    pub(super) without_managers: bool,
}

/// The contents of an audit policy file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: json_tree::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<AuditStage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

/// A rule applies to a request that matches all conditions of the rule.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: AuditLevel,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<AuditStage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    pub(super) fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = serde_saphyr::from_str(text)
            .map_err(|error| PolicyError::Form(yaml_error::in_text(&error)))?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            let type_name = format!("{} of {}", policy.kind, policy.api_version);
            return Err(PolicyError::Kind { actual: type_name });
        }
        let wrong = |field: String, why: &str| {
            let why = why.to_owned();
            Err(PolicyError::Value { field, why })
        };
        if policy.rules.is_empty() {
            return wrong(
                "rules".to_owned(),
                "there are none, so nothing would be noted",
            );
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if about_resources && !rule.non_resource_urls.is_empty() {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                return wrong(format!("rules[{at}].nonResourceURLs"), why);
            }
            for (url_at, url) in rule.non_resource_urls.iter().enumerate() {
                let field = format!("rules[{at}].nonResourceURLs[{url_at}]");
                if url != "*" && !url.starts_with('/') {
                    return wrong(
                        field,
                        "non-resource URL rules must begin with a '/' character",
                    );
                }
                if url.find('*').is_some_and(|star| star + 1 != url.len()) {
                    return wrong(
                        field,
                        "non-resource URL wildcards '*' must be the final character",
                    );
                }
            }
            for (group_at, group) in rule.resources.iter().enumerate() {
                if !group.resource_names.is_empty() && group.resources.is_empty() {
                    let field = format!("rules[{at}].resources[{group_at}].resourceNames");
                    return wrong(field, "using resourceNames requires at least one resource");
                }
            }
        }
        Ok(policy)
    }

    /// The audit level and stages of the first matching rule. If no rule matches, nothing is recorded.
    pub(super) fn verdict(&self, user: &UserInfo, info: &RequestInfo) -> AuditVerdict {
        let rule = self.rules.iter().find(|rule| rule.fits(user, info));
        let level = rule.map_or(AuditLevel::None, |rule| rule.level);
        let omitted = rule.map_or(&[][..], |rule| &rule.omit_stages);
        let managers = rule.and_then(|rule| rule.omit_managed_fields);
        AuditVerdict {
            level,
            omit: self.omit_stages.iter().chain(omitted).copied().collect(),
            without_managers: managers.unwrap_or(self.omit_managed_fields),
        }
    }
}

fn has(list: &[String], one: &str) -> bool {
    list.iter().any(|entry| entry == one)
}

impl Rule {
    fn fits(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let group_fits = |groups: &[String]| groups.iter().any(|g| has(&self.user_groups, g));
        if !self.users.is_empty() && !has(&self.users, &user.name)
            || !self.user_groups.is_empty() && !group_fits(&user.groups)
            || !self.verbs.is_empty() && !has(&self.verbs, &info.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(info)));
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource
                && self
                    .non_resource_urls
                    .iter()
                    .any(|url| match url.strip_suffix('*') {
                        Some(start) => info.path.starts_with(start),
                        None => *url == info.path,
                    });
        }
        true
    }
}

impl Resources {
    fn fits(&self, info: &RequestInfo) -> bool {
        if self.group != info.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || has(&self.resource_names, &info.name);
        named
            && self.resources.iter().any(|one| match one.split_once('/') {
                None => one == "*" || (info.subresource.is_empty() && *one == info.resource),
                Some(("*", sub)) => !info.subresource.is_empty() && sub == info.subresource,
                Some((resource, "*")) => resource == info.resource,
                Some((resource, sub)) => resource == info.resource && sub == info.subresource,
            })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::http::query::Query;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
- level: Metadata
  resources:
  - group: ''
    resources: [secrets, configmaps, pods/log]
- level: Request
  namespaces: [kube-system]
  omitStages: [ResponseStarted]
- level: RequestResponse
  userGroups: [devs]
  resources:
  - group: apps
    resources: [statefulsets/*]
    resourceNames: [web]
- level: None
  nonResourceURLs: [/healthz*, /version]
- level: Metadata
  omitManagedFields: true
";

    fn level(user: &str, groups: &[&str], method: &str, path: &str) -> AuditLevel {
        let policy = Policy::parse(POLICY).unwrap();
        let user = UserInfo::new(user, groups.iter().copied());
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let info = RequestInfo::new(&method, path, &Query::parse(query));
        policy.verdict(&user, &info).level
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let cases = [
            (
                "system:kube-proxy",
                "/api/v1/services?watch=1",
                AuditLevel::None,
            ),
            (
                "system:kube-proxy",
                "/api/v1/services",
                AuditLevel::Metadata,
            ),
            (
                "a",
                "/api/v1/namespaces/kube-system/secrets",
                AuditLevel::Metadata,
            ),
            (
                "a",
                "/api/v1/namespaces/kube-system/pods",
                AuditLevel::Request,
            ),
            (
                "a",
                "/api/v1/namespaces/kube-system/pods/p/log",
                AuditLevel::Metadata,
            ),
            ("a", "/healthz/ping", AuditLevel::None),
            ("a", "/version", AuditLevel::None),
            ("a", "/metrics", AuditLevel::Metadata),
        ];
        for (user, path, expected) in cases {
            assert_eq!(level(user, &[], "GET", path), expected, "{user} {path}");
        }
        let scale = "/apis/apps/v1/namespaces/d/statefulsets/web/scale";
        assert_eq!(
            level("a", &["devs"], "PUT", scale),
            AuditLevel::RequestResponse
        );
        assert_eq!(level("a", &["ops"], "PUT", scale), AuditLevel::Metadata);
        let policy = Policy::parse(POLICY).unwrap();
        let info = RequestInfo::new(
            &Method::GET,
            "/api/v1/namespaces/kube-system/pods",
            &Query::default(),
        );
        let verdict = policy.verdict(&UserInfo::default(), &info);
        assert_eq!(
            verdict.omit,
            [AuditStage::RequestReceived, AuditStage::ResponseStarted]
        );
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        let cases = [
            (
                format!("{head}rules:\n- level: Metadata\n  user: [a]\n"),
                "user",
            ),
            (format!("{head}rules:\n- level: All\n"), "All"),
            (format!("{head}rules: []\n"), "rules"),
            (
                "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]\n"
                    .to_owned(),
                "v1beta1",
            ),
            (
                format!("{head}rules:\n- level: None\n  nonResourceURLs: [a]\n"),
                "rules[0].nonResourceURLs[0]",
            ),
            (
                format!(
                    "{head}rules:\n- level: None\n  nonResourceURLs: [/a]\n  namespaces: [b]\n"
                ),
                "both",
            ),
        ];
        for (text, expected) in cases {
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
