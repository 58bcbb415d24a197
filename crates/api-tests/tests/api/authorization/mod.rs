//! The authorised request is the served request. The test sends each form of path with each method, for kinds of both
//! scopes, as users with one rule each, and compares the results with a simple model of Kubernetes' rules.
//!
//! The model starts from the parts of a request, not from its path, so it shares nothing with the server. Its rules
//! are those of "API server request attributes"
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authorization/>) and of RBAC.

mod model;

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use json_tree::{Value, json};

use self::model::{How, KINDS, Kind, Outcome, Query, RequestParts, TEAM, User, user};
use crate::harness::Api;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Creates the roles and bindings of a user.
async fn introduce(api: &Api, user: &User) {
    let User { name, rule, .. } = user;
    let rules = json!([{"verbs": rule.verbs, "apiGroups": rule.groups,
        "resources": rule.resources, "resourceNames": rule.names}]);
    let home = match user.namespace {
        Some(namespace) => format!("{RBAC}/namespaces/{namespace}"),
        None => RBAC.to_owned(),
    };
    let (kind, plural, binding) = match (user.namespace, user.how) {
        (Some(_), How::BoundHere) => ("ClusterRole", "clusterroles", "rolebindings"),
        (Some(_), _) => ("Role", "roles", "rolebindings"),
        (None, _) => ("ClusterRole", "clusterroles", "clusterrolebindings"),
    };
    let at = match kind {
        "Role" => format!("{home}/{plural}"),
        _ => format!("{RBAC}/{plural}"),
    };
    let role = |name: &str, rules: &Value| json!({"metadata": {"name": name}, "rules": rules});
    match user.how {
        How::Missing => {}
        How::Gathered => {
            let mut part = role(&format!("part-of-{name}"), &rules);
            part["metadata"]["labels"] = json!({"for": name});
            api.create(&at, part).await;
            let mut whole = role(name, &json!([]));
            whole["aggregationRule"] =
                json!({"clusterRoleSelectors": [{"matchLabels": {"for": name}}]});
            api.create(&at, whole).await;
        }
        How::Bound | How::BoundHere => {
            api.create(&at, role(name, &rules)).await;
        }
    }
    let bound = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}],
    });
    api.create(&format!("{home}/{binding}"), bound).await;
}

const ANY: &[&str] = &["*"];
const REVIEWS: &[&str] = &[
    "subjectaccessreviews",
    "localsubjectaccessreviews",
    "tokenreviews",
];

const USERS: &[User] = &[
    user("root", None, ANY, ANY, ANY, &[]),
    // findings S4: the right to everything in a namespace gives no right to cluster-wide objects.
    user("lead", Some(TEAM), ANY, ANY, ANY, &[]),
    User {
        how: How::BoundHere,
        ..user(
            "editor",
            Some(TEAM),
            &["get", "patch", "delete"],
            &["", "apps"],
            ANY,
            &[],
        )
    },
    user(
        "of-namespaces",
        Some(TEAM),
        ANY,
        &[""],
        &["namespaces"],
        &[],
    ),
    // findings S9: the right to one name is not the right to all names.
    user("one-secret", Some(TEAM), ANY, &[""], &["secrets"], &["a"]),
    user(
        "one-node",
        None,
        &["get", "list", "watch"],
        &[""],
        &["nodes"],
        &["a"],
    ),
    user(
        "watcher",
        Some(TEAM),
        &["watch"],
        &[""],
        &["secrets", "pods/log"],
        &[],
    ),
    user(
        "reader",
        None,
        &["get", "list"],
        ANY,
        &["pods", "statefulsets"],
        &[],
    ),
    user(
        "of-parts",
        None,
        ANY,
        ANY,
        &["*/status", "statefulsets/scale", "pods/*"],
        &[],
    ),
    // findings S27
    user("reviewer", Some(TEAM), &["create"], ANY, REVIEWS, &[]),
    User {
        how: How::Gathered,
        ..user("gatherer", None, &["list", "watch"], &[""], &["nodes"], &[])
    },
    User {
        how: How::Missing,
        ..user("early", Some(TEAM), ANY, ANY, ANY, &[])
    },
];

fn requests(kind: &Kind) -> Vec<RequestParts<'_>> {
    let parts = kind.parts.iter().map(|(part, _)| Some(*part));
    let parts: Vec<_> = [None, Some("other")].into_iter().chain(parts).collect();
    let names: &[Option<&'static str>] = match kind.plural {
        "namespaces" => &[None, Some("a"), Some(TEAM)],
        _ => &[None, Some("a")],
    };
    let mut all = Vec::new();
    for old_watch in [false, true] {
        for namespace in [None, Some(TEAM)] {
            for name in names {
                // Below a Namespace, the next segment is the name of a kind in the namespace, unless it is a
                // sub-resource.
                let is_kind = kind.plural == "namespaces" && namespace.is_none();
                let mut parts = parts.clone();
                parts.retain(|part| match part {
                    Some(part) => name.is_some() && !(is_kind && *part == "other"),
                    None => true,
                });
                for part in &parts {
                    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] {
                        let collection = name.is_none() && matches!(method, "GET" | "DELETE");
                        let queries: &[Query] = match collection {
                            true => &[
                                Query::Plain,
                                Query::Watch,
                                Query::Selects("a"),
                                Query::Selects("b"),
                            ],
                            false => &[Query::Plain],
                        };
                        all.extend(queries.iter().map(|query| RequestParts {
                            kind,
                            method,
                            old_watch,
                            namespace,
                            name: *name,
                            part: *part,
                            query: *query,
                        }));
                    }
                }
            }
        }
    }
    all
}

async fn outcome(api: &Api, request: &RequestParts<'_>) -> Outcome {
    let headers = match request.method {
        "PATCH" => [("content-type", "application/merge-patch+json")],
        _ => [("content-type", "application/json")],
    };
    let response = api
        .respond(request.method, &request.path(), &headers, "{}")
        .await;
    match response.status().as_u16() {
        403 => Outcome::Forbidden,
        405 => Outcome::NoMethod,
        404 if request.method == "HEAD" => Outcome::NoPath,
        404 => {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let status: Value = serde_json::from_slice(&body).unwrap();
            match status["details"]["name"].is_null() {
                true => Outcome::NoPath,
                false => Outcome::Served,
            }
        }
        _ => Outcome::Served,
    }
}

#[tokio::test]
async fn what_is_authorised_is_what_is_served() {
    // findings S4, S9, S27
    let api = Api::new().await;
    let team = json!({"metadata": {"name": TEAM}});
    api.create("/api/v1/namespaces", team).await;
    let accounts = format!("/api/v1/namespaces/{TEAM}/serviceaccounts");
    let account = json!({"metadata": {"name": "default"}});
    api.create(&accounts, account).await;
    for user in USERS {
        introduce(&api, user).await;
    }
    // The index applies the changes of each kind in order: if the last role and the last binding are effective, all
    // earlier ones are, too.
    for (home, kind, roles, bindings) in [
        (
            RBAC.to_owned(),
            "ClusterRole",
            "clusterroles",
            "clusterrolebindings",
        ),
        (
            format!("{RBAC}/namespaces/{TEAM}"),
            "Role",
            "roles",
            "rolebindings",
        ),
    ] {
        let rules = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        let role = json!({"metadata": {"name": "last"}, "rules": rules});
        api.create(&format!("{home}/{roles}"), role).await;
        let last = json!({"metadata": {"name": "last"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "last"},
            "subjects": [{"kind": "User", "name": bindings, "apiGroup": "rbac.authorization.k8s.io"}]});
        api.create(&format!("{home}/{bindings}"), last).await;
        let reader = api.as_user(bindings, &[]);
        let secrets = format!("/api/v1/namespaces/{TEAM}/secrets");
        while reader.get(&secrets).await.0 != 200 {
            tokio::task::yield_now().await;
        }
    }
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    for user in USERS {
        let api = api.as_user(user.name, &[]);
        for request in KINDS.iter().flat_map(requests) {
            let (expected, actual) = (request.expected(user), outcome(&api, &request).await);
            *counts.entry(expected).or_default() += 1;
            if expected != actual {
                let (method, path) = (request.method, request.path());
                wrong.push(format!(
                    "{}: {method} {path}: {actual:?}, not {expected:?}",
                    user.name
                ));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    // Each outcome occurs often in the table.
    let often = counts.values().filter(|count| **count > 100).count();
    assert_eq!(often, 4, "{counts:?}");
}

#[tokio::test]
async fn a_watch_of_the_old_form_is_of_the_one_name() {
    // findings S9
    let api = Api::new().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["a", "b"] {
        api.create(secrets, json!({"metadata": {"name": name}}))
            .await;
    }
    let old = "/api/v1/watch/namespaces/default/secrets";
    let mut events = crate::harness::Events::open(&api, &format!("{old}/b")).await;
    assert_eq!(events.short().await, "ADDED b");
    api.create(secrets, json!({"metadata": {"name": "c"}}))
        .await;
    let (code, _) = api
        .send("DELETE", &format!("{secrets}/b"), Value::Null)
        .await;
    assert_eq!(code, 200);
    assert_eq!(events.short().await, "DELETED b");
    let same = format!("{old}/b?fieldSelector=metadata.name%3Db&timeoutSeconds=1");
    assert_eq!(api.respond("GET", &same, &[], "").await.status(), 200);
    for selector in [
        "metadata.name%3Da",
        "metadata.name!%3Db",
        "metadata.namespace%3Ddefault",
    ] {
        let path = format!("{old}/b?fieldSelector={selector}");
        let (code, status) = api.get(&path).await;
        assert_eq!(code, 400, "{selector} {status}");
    }
    let refused = api.raw("DELETE", &format!("{old}/b"), &[], "").await;
    assert_eq!(
        (refused.code, &refused.headers["allow"]),
        (405, &"GET".parse().unwrap())
    );
}
