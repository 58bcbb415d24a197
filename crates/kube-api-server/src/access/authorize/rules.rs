//! RBAC rules: whether a rule covers a request.

use object_model::FieldSelector;
use serde::{Deserialize, Serialize};

use crate::http::request_info::RequestInfo;

/// A `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(deserialize_with = "list")]
    pub(crate) verbs: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) non_resource_urls: Vec<String>,
}

fn list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The attributes of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AuthorizationAttributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The path of a request that is not for a resource; otherwise `None`.
    pub(crate) path: Option<&'a str>,
    /// The field selector of a request for a collection.
    pub(crate) fields: Option<&'a FieldSelector>,
}

impl<'a> AuthorizationAttributes<'a> {
    pub(crate) fn of(info: &'a RequestInfo) -> Self {
        Self {
            verb: &info.verb,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: (!info.is_resource).then_some(info.path.as_str()),
            fields: Some(&info.fields),
        }
    }
}

impl Rule {
    /// The rules that allow every request (`cluster-admin`).
    pub(crate) fn everything() -> [Self; 2] {
        let all = || vec!["*".to_owned()];
        [
            Self {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Self::default()
            },
            Self {
                verbs: all(),
                non_resource_urls: all(),
                ..Self::default()
            },
        ]
    }

    /// The rules of a role; empty if they cannot be parsed.
    pub(crate) fn list_of(role: &json_tree::Value) -> Vec<Self> {
        let rules = Option::<Vec<Self>>::deserialize(&role["rules"]);
        rules.ok().flatten().unwrap_or_default()
    }

    /// Splits the rule into minimal rules: one verb on one resource of one group, with one name or with any name; or
    /// one verb on one URL.
    pub(crate) fn singles(&self) -> impl Iterator<Item = Self> {
        let one = |text: &str| vec![text.to_owned()];
        let names: Vec<Vec<String>> = match self.resource_names.is_empty() {
            true => vec![Vec::new()],
            false => self.resource_names.iter().map(|name| one(name)).collect(),
        };
        let on_resources = |verb: &str| {
            let mut all = Vec::new();
            for group in &self.api_groups {
                for resource in &self.resources {
                    all.extend(names.iter().map(|names| Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        resource_names: names.clone(),
                        ..Self::default()
                    }));
                }
            }
            all
        };
        let at_urls = |verb: &str| {
            let urls = self.non_resource_urls.iter().map(|url| Self {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Self::default()
            });
            urls.collect::<Vec<_>>()
        };
        let all = self.verbs.iter().flat_map(|verb| {
            let mut all = on_resources(verb);
            all.extend(at_urls(verb));
            all
        });
        all.collect::<Vec<_>>().into_iter()
    }

    /// Whether this rule allows everything that `single` allows. `single` is a rule from [`singles`](Self::singles).
    pub(crate) fn includes(&self, single: &Self) -> bool {
        let all = |list: &[String], others: &[String]| others.iter().all(|other| has(list, other));
        let names = match single.resource_names.is_empty() {
            true => self.resource_names.is_empty(),
            false => {
                self.resource_names.is_empty()
                    || (single.resource_names.iter()).all(|name| self.resource_names.contains(name))
            }
        };
        let resource = |other: &String| {
            let of_any = other.split_once('/').map(|(_, part)| format!("*/{part}"));
            has(&self.resources, other)
                || of_any.is_some_and(|of_any| self.resources.contains(&of_any))
        };
        let urls = |other: &String| {
            self.non_resource_urls
                .iter()
                .any(|url| url_covers(url, other))
        };
        all(&self.verbs, &single.verbs)
            && all(&self.api_groups, &single.api_groups)
            && single.resources.iter().all(resource)
            && single.non_resource_urls.iter().all(urls)
            && names
    }

    pub(crate) fn covers(&self, attributes: &AuthorizationAttributes<'_>) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        match attributes.path {
            Some(path) => self
                .non_resource_urls
                .iter()
                .any(|url| url_covers(url, path)),
            None => {
                has(&self.api_groups, attributes.group)
                    && self
                        .resources
                        .iter()
                        .any(|r| resource_covers(r, attributes))
                    && (self.resource_names.is_empty()
                        || self
                            .resource_names
                            .iter()
                            .any(|name| name == attributes.name))
            }
        }
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == text)
}

fn resource_covers(rule: &str, attributes: &AuthorizationAttributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => attributes.subresource.is_empty() && rule == attributes.resource,
        Some((resource, subresource)) => {
            !attributes.subresource.is_empty()
                && (resource == "*" || resource == attributes.resource)
                && subresource == attributes.subresource
        }
    }
}

fn url_covers(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_cover_what_they_name_and_nothing_else() {
        let rule: Rule = serde_json::from_str(
            r#"{"verbs": ["get"], "apiGroups": ["", "apps"], "resourceNames": null,
                "resources": ["pods", "*/scale", "pods/log"]}"#,
        )
        .unwrap();
        let cases = [
            ("get", "", "pods", "", true),
            ("list", "", "pods", "", false),
            ("get", "batch", "pods", "", false),
            ("get", "", "pods", "log", true),
            ("get", "", "pods", "exec", false),
            ("get", "apps", "statefulsets", "scale", true),
            ("get", "apps", "statefulsets", "", false),
        ];
        for (verb, group, resource, subresource, expected) in cases {
            let attributes = AuthorizationAttributes {
                verb,
                group,
                resource,
                subresource,
                namespace: "",
                name: "x",
                ..AuthorizationAttributes::default()
            };
            assert_eq!(rule.covers(&attributes), expected, "{attributes:?}");
        }
        let named = Rule {
            resource_names: vec!["x".to_owned()],
            ..rule
        };
        let mut attributes = AuthorizationAttributes {
            verb: "get",
            group: "",
            resource: "pods",
            subresource: "",
            namespace: "",
            name: "x",
            ..AuthorizationAttributes::default()
        };
        assert!(named.covers(&attributes));
        attributes.name = "";
        assert!(!named.covers(&attributes));
        let urls = Rule {
            verbs: vec!["get".to_owned()],
            non_resource_urls: vec!["/healthz".to_owned(), "/api/*".to_owned()],
            ..Rule::default()
        };
        for (path, expected) in [
            ("/healthz", true),
            ("/healthz/x", false),
            ("/api/v1", true),
            ("/api", false),
        ] {
            attributes.path = Some(path);
            assert_eq!(urls.covers(&attributes), expected, "{path}");
        }
    }
}
