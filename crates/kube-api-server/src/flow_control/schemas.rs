//! FlowSchemas as data, and the matching of requests. The rules are those of the page "API Priority and
//! Fairness" of Kubernetes.

use std::cmp::Ordering;

use json_tree::Value;
use serde::Deserialize;

use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::objects::metadata;

const ACCOUNT: &str = "system:serviceaccount:";

/// The part of a FlowSchema that matching uses.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The name of the priority level.
    pub(crate) level: String,
    precedence: i64,
    by: Option<Distinguisher>,
    rules: Vec<Rule>,
}

/// The distinguisher of the flows of a schema.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "type")]
enum Distinguisher {
    ByUser,
    ByNamespace,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    priority_level_configuration: Named,
    matching_precedence: i64,
    distinguisher_method: Option<Distinguisher>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind")]
enum Subject {
    User {
        user: Named,
    },
    Group {
        group: Named,
    },
    ServiceAccount {
        #[serde(rename = "serviceAccount")]
        account: Account,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Words,
    api_groups: Words,
    resources: Words,
    cluster_scope: bool,
    namespaces: Words,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PathRule {
    verbs: Words,
    #[serde(rename = "nonResourceURLs")]
    paths: Words,
}

/// A list of names; the single name `*` matches every name.
#[derive(Clone, Debug, Default, Deserialize)]
struct Words(Vec<String>);

impl Words {
    fn has(&self, word: &str) -> bool {
        self.any(|one| one == word)
    }

    fn any(&self, fits: impl Fn(&str) -> bool) -> bool {
        match self.0.as_slice() {
            [all] if all == "*" => true,
            some => some.iter().any(|one| fits(one)),
        }
    }
}

impl Schema {
    /// Reads a stored object; `None` for an invalid one.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let spec = Spec::deserialize(&object["spec"]).ok()?;
        Some(Self {
            name: metadata::text(object, "name").to_owned(),
            uid: metadata::text(object, "uid").to_owned(),
            level: spec.priority_level_configuration.name,
            precedence: spec.matching_precedence,
            by: spec.distinguisher_method,
            rules: spec.rules,
        })
    }

    /// The matching order: by precedence, then by name.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let key = |schema: &Self| schema.precedence;
        key(self)
            .cmp(&key(other))
            .then_with(|| self.name.cmp(&other.name))
    }

    /// Whether the schema matches a request.
    pub(crate) fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// The distinguisher of the request's flow.
    pub(crate) fn distinguisher<'r>(&self, user: &'r UserInfo, info: &'r RequestInfo) -> &'r str {
        match self.by {
            None => "",
            Some(Distinguisher::ByUser) => &user.name,
            Some(Distinguisher::ByNamespace) => &info.namespace,
        }
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if info.is_resource {
            self.resource_rules.iter().any(|rule| rule.matches(info))
        } else {
            self.non_resource_rules
                .iter()
                .any(|rule| rule.matches(info))
        }
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User { user: named } => named.name == "*" || named.name == user.name,
            Self::Group { group } => group.name == "*" || user.groups.contains(&group.name),
            Self::ServiceAccount { account } => {
                let rest = user.name.strip_prefix(ACCOUNT);
                let parts = rest.and_then(|rest| rest.split_once(':'));
                parts.is_some_and(|(namespace, name)| {
                    namespace == account.namespace && (account.name == "*" || account.name == name)
                })
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = |one: &str| match info.subresource.as_str() {
            "" => one == info.resource,
            sub => one
                .strip_prefix(info.resource.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|named| named == sub),
        };
        self.verbs.has(&info.verb)
            && self.resources.any(resource)
            && self.api_groups.has(&info.group)
            && match info.namespace.as_str() {
                "" => self.cluster_scope,
                namespace => self.namespaces.has(namespace),
            }
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let path = info.path.as_str();
        // `/a` and `/a/*` match every path below `/a/`.
        let below = |one: &str| {
            let start = one.strip_suffix('*').unwrap_or(one);
            let start = start.strip_suffix('/').unwrap_or(start);
            path.strip_prefix(start)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.has(&info.verb) && self.paths.any(|one| one == path || below(one))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use json_tree::json;
    use resource_kinds::flowcontrol;

    use super::*;
    use crate::http::query::Query;

    fn info(request: &str) -> RequestInfo {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        RequestInfo::new(&method, path, &Query::parse(query))
    }

    /// The default schemas in matching order.
    fn defaults() -> Vec<Schema> {
        let all = flowcontrol::mandatory().into_iter();
        let all = all.chain(flowcontrol::suggested());
        let schemas = all.filter(|object| object["kind"] == "FlowSchema");
        let mut schemas: Vec<Schema> = schemas.map(|one| Schema::read(&one).unwrap()).collect();
        schemas.sort_by(Schema::order);
        schemas
    }

    const USERS: &[&str] = &["system:authenticated"];
    const ACCOUNTS: &[&str] = &["system:serviceaccounts", "system:authenticated"];
    const NODES: &[&str] = &["system:nodes", "system:authenticated"];
    const MASTERS: &[&str] = &["system:masters", "system:authenticated"];
    const MANAGER: &str = "system:kube-controller-manager";
    const IN_KUBE_SYSTEM: &str = "system:serviceaccount:kube-system:x";

    /// User, groups, request; then schema, level and distinguisher.
    type Row = (
        &'static str,
        &'static [&'static str],
        &'static str,
        &'static str,
        &'static str,
        &'static str,
    );

    /// findings C53: the default schemas, as the documentation describes them.
    const DEFAULT_SCHEMAS: &[Row] = &[
        (
            "admin",
            MASTERS,
            "DELETE /api/v1/namespaces/a/pods",
            "exempt",
            "exempt",
            "",
        ),
        ("ann", USERS, "GET /readyz", "probes", "exempt", ""),
        ("ann", USERS, "GET /livez/ping", "probes", "exempt", ""),
        (
            MANAGER,
            USERS,
            "PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "system-leader-election",
            "leader-election",
            MANAGER,
        ),
        (
            MANAGER,
            USERS,
            "PATCH /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "kube-controller-manager",
            "workload-high",
            "kube-system",
        ),
        (
            IN_KUBE_SYSTEM,
            ACCOUNTS,
            "GET /apis/coordination.k8s.io/v1/namespaces/b/leases/x",
            "system-leader-election",
            "leader-election",
            IN_KUBE_SYSTEM,
        ),
        (
            IN_KUBE_SYSTEM,
            ACCOUNTS,
            "GET /api/v1/namespaces/b/pods?watch=1",
            "kube-system-service-accounts",
            "workload-high",
            "b",
        ),
        (
            "system:node:n",
            NODES,
            "PATCH /api/v1/nodes/n/status",
            "system-node-high",
            "node-high",
            "system:node:n",
        ),
        (
            "system:node:n",
            NODES,
            "GET /api/v1/pods",
            "system-nodes",
            "system",
            "system:node:n",
        ),
        (
            "system:kube-scheduler",
            USERS,
            "GET /api/v1/pods",
            "kube-scheduler",
            "workload-high",
            "",
        ),
        (
            "system:serviceaccount:a:x",
            ACCOUNTS,
            "GET /api/v1/namespaces/b/pods",
            "service-accounts",
            "workload-low",
            "system:serviceaccount:a:x",
        ),
        (
            "ann",
            USERS,
            "GET /metrics",
            "global-default",
            "global-default",
            "ann",
        ),
    ];

    #[test]
    fn requests_find_the_default_schemas() {
        let schemas = defaults();
        for &(user, groups, request, schema, level, flow) in DEFAULT_SCHEMAS {
            let user = UserInfo::new(user, groups.iter().copied());
            let info = info(request);
            let matching = schemas
                .iter()
                .find(|one| one.matches(&user, &info))
                .unwrap();
            let distinguisher = matching.distinguisher(&user, &info);
            assert_eq!(
                (
                    matching.name.as_str(),
                    matching.level.as_str(),
                    distinguisher
                ),
                (schema, level, flow),
                "{request}"
            );
        }
    }

    fn schema(rule: Value) -> Schema {
        let spec = json!({"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 5,
            "rules": [rule]});
        Schema::read(&json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    /// findings C53: subjects match by user, group and service account.
    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let matches = |subject: Value, user: &str, groups: &[&str]| {
            let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
            let schema = schema(json!({"subjects": [subject], "nonResourceRules": paths}));
            let user = UserInfo::new(user, groups.iter().copied());
            schema.matches(&user, &info("GET /x"))
        };
        let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
        assert!(matches(user("ann"), "ann", &[]));
        assert!(matches(user("*"), "bob", &[]));
        assert!(!matches(user("ann"), "bob", &["ann"]));
        let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
        assert!(matches(group("g"), "ann", &["f", "g"]));
        assert!(matches(group("*"), "ann", &[]));
        assert!(!matches(group("g"), "g", &["gg"]));
        let account = |namespace: &str, name: &str| {
            json!({"kind": "ServiceAccount",
                "serviceAccount": {"namespace": namespace, "name": name}})
        };
        assert!(matches(account("a", "b"), "system:serviceaccount:a:b", &[]));
        assert!(matches(account("a", "*"), "system:serviceaccount:a:b", &[]));
        assert!(!matches(
            account("a", "*"),
            "system:serviceaccount:aa:b",
            &[]
        ));
        assert!(!matches(account("a", "b"), "a:b", &[]));
        // An invalid schema is ignored.
        let broken = json!({"spec": {"rules": [{"subjects": [{"kind": "Robot"}]}]}});
        assert!(Schema::read(&broken).is_none());
    }

    /// findings C53: groups, sub-resources and namespaces.
    #[test]
    fn resource_rules_match_by_verb_group_resource_and_namespace() {
        let everybody = json!([{"kind": "User", "user": {"name": "*"}}]);
        let rule = json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"],
            "resources": ["pods", "pods/log"], "namespaces": ["a"]});
        let matches = |changes: Value, request: &str| {
            let mut rule = rule.clone();
            for (key, value) in changes.as_object().unwrap() {
                rule[key] = value.clone();
            }
            let schema = schema(json!({"subjects": everybody, "resourceRules": [rule]}));
            schema.matches(&UserInfo::new("u", [""; 0]), &info(request))
        };
        let none = json!({});
        let pods = "/api/v1/namespaces/a/pods";
        assert!(matches(none.clone(), &format!("GET {pods}")));
        assert!(matches(none.clone(), &format!("GET {pods}/x/log")));
        assert!(!matches(none.clone(), &format!("GET {pods}/x/status")));
        assert!(!matches(none.clone(), &format!("POST {pods}")));
        assert!(!matches(none.clone(), "GET /api/v1/namespaces/b/pods"));
        assert!(!matches(
            none.clone(),
            "GET /apis/batch/v1/namespaces/a/pods"
        ));
        assert!(!matches(none.clone(), "GET /metrics"));
        // `*` does not match a request without a namespace.
        let all = json!({"namespaces": ["*"]});
        assert!(matches(all.clone(), "GET /api/v1/namespaces/b/pods"));
        assert!(!matches(all, "GET /api/v1/pods"));
        assert!(matches(json!({"clusterScope": true}), "GET /api/v1/pods"));
        assert!(matches(
            json!({"verbs": ["*"]}),
            &format!("DELETE {pods}/x")
        ));
    }

    /// findings C53: a path matches the paths below it.
    #[test]
    fn path_rules_match_what_is_below() {
        let matches = |one: &str, request: &str| {
            let schema = schema(json!({
                "subjects": [{"kind": "User", "user": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [one]}],
            }));
            schema.matches(&UserInfo::new("u", [""; 0]), &info(request))
        };
        for (one, request, expected) in [
            ("*", "GET /a", true),
            ("*", "POST /a", false),
            ("/a", "GET /a", true),
            ("/a", "GET /a/b", true),
            ("/a", "GET /ab", false),
            ("/a/*", "GET /a/b", true),
            ("/a/*", "GET /a", false),
            ("/a/*", "GET /api/v1/pods", false),
        ] {
            assert_eq!(matches(one, request), expected, "{one} {request}");
        }
    }

    /// findings C53
    #[test]
    fn schemas_are_asked_by_precedence_and_then_by_name() {
        let names: Vec<String> = defaults().into_iter().map(|schema| schema.name).collect();
        assert_eq!(names[0], "exempt");
        assert_eq!(names[5..7], ["kube-controller-manager", "kube-scheduler"]);
        assert_eq!(names.last().unwrap(), "catch-all");
    }
}
