//! An unreadable object or body causes an error; it does not count as absent.

use json_tree::{Value, json};

use crate::custom_metadata::{POIS, define_pois};
use crate::harness::{Api, CONFIG_MAPS, Events, PODS, config_map, pod};

const UNSAFE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Damages the stored object whose key ends with `end`.
async fn spoil(api: &Api, suffix: &str) {
    api.rewrite_stored(suffix, |_| "{".to_owned()).await;
}

#[tokio::test]
async fn a_decision_without_what_is_unreadable_does_not_count() {
    // findings A8
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "p"}});
    let evict = format!("{PODS}/p/eviction");
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"a": "b"}}}});
    api.create(budgets, budget).await;
    spoil(&api, "poddisruptionbudgets/default/b").await;
    let running = json!({"status": {"phase": "Running"}});
    let status = format!("{PODS}/p/status");
    assert_eq!(api.patch(&status, "merge", running).await.0, 200);
    let (code, refused) = api.send("POST", &evict, eviction.clone()).await;
    assert_eq!(code, 500, "{refused}");
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains("poddisruptionbudgets/default/b"), "{text}");
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 200);
    // Without its Namespace object, a namespace would have no Pod Security level.
    spoil(&api, "/namespaces/default").await;
    assert_eq!(api.send("POST", PODS, pod("q")).await.0, 500);
}

#[tokio::test]
async fn with_registrations_that_are_unreadable_nothing_is_written() {
    // findings A8
    let api = Api::new().await;
    let group = "admissionregistration.k8s.io";
    let hooks = format!("/apis/{group}/v1/validatingwebhookconfigurations");
    api.create(&hooks, json!({"metadata": {"name": "w"}})).await;
    spoil(&api, "validatingwebhookconfigurations/w").await;
    // Another change causes the configurations to be read again.
    api.create(&hooks, json!({"metadata": {"name": "v"}})).await;
    let (code, refused) = api.send("POST", CONFIG_MAPS, config_map("a")).await;
    assert_eq!(code, 500, "{refused}");
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.0, 404);
}

#[tokio::test]
async fn bodies_of_sub_resources_have_the_types_of_their_kind() {
    // findings A2, A7
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let binding = format!("{PODS}/p/binding");
    let eviction = format!("{PODS}/p/eviction");
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (path, body) in [
        (token, json!({"spec": "x"})),
        (token, json!({"spec": {"expirationSeconds": "x"}})),
        (token, json!({"spec": {"boundObjectRef": []}})),
        (token, json!({"metadata": "x"})),
        (
            &binding,
            json!({"target": {"name": "n"}, "metadata": {"annotations": {"a": 1}}}),
        ),
        (&binding, json!({"target": {"name": "n"}, "metadata": []})),
        (&binding, json!({"target": "n"})),
        (&binding, json!({"kind": "Pod", "target": {"name": "n"}})),
        (
            &eviction,
            json!({"deleteOptions": {"gracePeriodSeconds": "1"}}),
        ),
        (review, json!({"spec": []})),
        (review, json!({"spec": {"resourceAttributes": "x"}})),
    ] {
        let (code, status) = api.send("POST", path, body.clone()).await;
        assert_eq!(code, 400, "{path} {body}: {status}");
    }
    // The object leaves nothing that would end a watch.
    let mut events = Events::open(&api, &format!("{PODS}?watch=1")).await;
    assert_eq!(events.short().await, "ADDED p");
    let good = json!({"target": {"name": "n"}, "metadata": {"annotations": {"a": "b"}}});
    assert_eq!(api.send("POST", &binding, good).await.0, 201);
    let bound = events.next().await.unwrap();
    assert_eq!(
        bound["object"]["metadata"]["annotations"],
        json!({"a": "b"})
    );
    let (code, response) = api
        .send("POST", token, Value::Object(Default::default()))
        .await;
    assert_eq!(code, 201, "{response}");
}

fn unsafe_options() -> Value {
    json!({"apiVersion": "v1", "kind": "DeleteOptions", UNSAFE: true})
}

// findings-2 E2
#[tokio::test]
async fn an_unreadable_object_is_named_and_can_be_deleted_on_purpose() {
    let api = Api::new().await;
    define_pois(&api).await;
    for (list, resource, object) in [
        (CONFIG_MAPS, "configmaps", config_map("a")),
        (
            POIS,
            "pois.example.org",
            json!({"apiVersion": "example.org/v1", "kind": "Poi",
                "metadata": {"name": "a", "finalizers": ["a/b"]}, "spec": {}}),
        ),
    ] {
        let key = format!(
            "/registry/{}/default/a",
            if list == POIS {
                "example.org/pois"
            } else {
                resource
            }
        );
        api.create(list, object).await;
        let path = format!("{list}/a");
        let (code, status) = api.send("DELETE", &path, unsafe_options()).await;
        assert_eq!(code, 409, "{status}");
        let text = status["message"].as_str().unwrap();
        assert!(text.contains("the object is decodable"), "{text}");
        spoil(&api, &key).await;
        for target in [list, &path, &format!("{list}?labelSelector=a")] {
            let (code, status) = api.get(target).await;
            assert_eq!(code, 500, "{target}: {status}");
            assert_eq!(status["reason"], "StorageReadError", "{target}");
            let text = status["message"].as_str().unwrap();
            assert!(text.contains(&key), "{text}");
            assert_eq!(status["details"]["causes"][0]["field"], key.as_str());
            assert_eq!(
                status["details"]["causes"][0]["reason"],
                "UnexpectedServerResponse"
            );
        }
        // The deletion of a namespace deletes its objects with this request.
        let emptied = api.send("DELETE", list, Value::Null).await;
        assert_eq!(emptied.0, 500);
        // A normal deletion cannot know the finalizers and dependents.
        let (code, status) = api.send("DELETE", &path, Value::Null).await;
        assert_eq!(
            (code, &status["reason"]),
            (500, &json!("StorageReadError")),
            "{status}"
        );
        assert!(status["message"].as_str().unwrap().contains(UNSAFE));
        let dry = format!("{path}?{UNSAFE}=true&dryRun=All");
        assert_eq!(api.send("DELETE", &dry, Value::Null).await.0, 200);
        assert_eq!(api.get(&path).await.0, 500);
        let (code, status) = api.send("DELETE", &path, unsafe_options()).await;
        assert_eq!(
            (code, &status["status"]),
            (200, &json!("Success")),
            "{status}"
        );
        assert_eq!(api.get(&path).await.0, 404);
        assert_eq!(api.get(list).await.0, 200);
        let emptied = api.send("DELETE", list, Value::Null).await;
        assert_eq!(emptied.0, 200);
        let again = api.send("DELETE", &path, unsafe_options()).await;
        assert_eq!(again.0, 404);
    }
}

// findings-2 E2
#[tokio::test]
async fn the_deletion_of_an_unreadable_object_needs_a_right_and_nothing_besides() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    spoil(&api, "/configmaps/default/a").await;
    let path = format!("{CONFIG_MAPS}/a");
    for (field, value) in [
        ("propagationPolicy", json!("Background")),
        ("orphanDependents", json!(true)),
        ("gracePeriodSeconds", json!(0)),
        ("preconditions", json!({"uid": "u"})),
    ] {
        let mut options = unsafe_options();
        options[field] = value;
        let (code, status) = api.send("DELETE", &path, options).await;
        assert_eq!(code, 422, "{status}");
        let text = status["message"].as_str().unwrap();
        let expected =
            format!("{UNSAFE}: Invalid value: true: cannot be set together with .{field}");
        assert!(text.contains(&expected), "{text}");
    }
    let (code, status) = api.send("DELETE", CONFIG_MAPS, unsafe_options()).await;
    assert_eq!(code, 422, "{status}");
    let text = status["message"].as_str().unwrap();
    assert!(
        text.contains("is not allowed with DELETECOLLECTION"),
        "{text}"
    );
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule =
        |verbs: Value| json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]);
    let role = json!({"metadata": {"name": "r"}, "rules": rule(json!(["delete"]))});
    api.create(&format!("{roles}/roles"), role.clone()).await;
    let binding = json!({"metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    api.create(&format!("{roles}/rolebindings"), binding).await;
    let jane = api.as_user("jane", &["system:authenticated"]);
    // A watch updates the roles, so the new role becomes effective after a moment.
    let delete_returns = async |expected: u16| {
        for _ in 0..100 {
            let (code, status) = jane.send("DELETE", &path, unsafe_options()).await;
            let text = status["message"].as_str().unwrap_or_default().to_owned();
            if code == expected && !text.contains("cannot delete resource") {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("no answer {expected}");
    };
    let text = delete_returns(403).await;
    assert!(text.contains("unsafe-delete-ignore-read-errors"), "{text}");
    let rules = rule(json!(["delete", "unsafe-delete-ignore-read-errors"]));
    let patch = json!({"rules": rules});
    assert_eq!(
        api.patch(&format!("{roles}/roles/r"), "merge", patch)
            .await
            .0,
        200
    );
    delete_returns(200).await;
    assert_eq!(api.get(&path).await.0, 404);
}
