//! Webhooks and policies that check and change writes (kubectl.md 10.5).

use json_tree::{Value, json};

use crate::harness::{Api, ApiResponse, CONFIG_MAPS as MAPS, PODS, SETS, pod, stateful_set};
use crate::hook::{GROUP, Hook, MUTATING, VALIDATING, make, patch};

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// The whole response to the creation of a ConfigMap.
async fn post(api: &Api, object: Value) -> ApiResponse {
    let headers = [("content-type", "application/json")];
    api.raw("POST", MAPS, &headers, object.to_string()).await
}

#[tokio::test]
async fn a_webhook_is_told_of_a_write_and_may_refuse_it() {
    let api = Api::new().await;
    let hook = Hook::start(|request| {
        let bad = request["object"]["data"]["bad"].is_string() || request["operation"] == "DELETE";
        if bad {
            json!({"allowed": false, "status": {"message": "not like this", "code": 403}})
        } else {
            json!({"allowed": true, "warnings": ["looked at"]})
        }
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    make(
        &api,
        VALIDATING,
        hook.configuration(kind, "look", json!({})),
    )
    .await;

    let created = post(&api, map("a", json!({"x": "y"}))).await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.headers["warning"], "299 - \"looked at\"");
    let reviews_sent = hook.requests();
    assert_eq!(reviews_sent.len(), 1);
    for (pointer, expected) in [
        ("/operation", json!("CREATE")),
        (
            "/kind",
            json!({"group": "", "version": "v1", "kind": "ConfigMap"}),
        ),
        (
            "/resource",
            json!({"group": "", "version": "v1", "resource": "configmaps"}),
        ),
        ("/namespace", json!("default")),
        ("/name", json!("a")),
        ("/dryRun", json!(false)),
        ("/oldObject", Value::Null),
        ("/object/data/x", json!("y")),
        ("/options/kind", json!("CreateOptions")),
    ] {
        assert_eq!(
            reviews_sent[0].pointer(pointer),
            Some(&expected),
            "{pointer}"
        );
    }
    assert!(reviews_sent[0]["userInfo"]["username"].is_string());

    let (code, refused) = api.send("POST", MAPS, map("b", json!({"bad": "1"}))).await;
    assert_eq!(code, 403);
    let why = "admission webhook \"look.example.com\" denied the request: not like this";
    assert_eq!(refused["message"], why);
    let one = format!("{MAPS}/a");
    let merge = json!({"data": {"bad": "1"}});
    assert_eq!(api.patch(&one, "merge", merge).await.0, 403);
    assert_eq!(api.send("DELETE", &one, Value::Null).await.0, 403);
    let last = hook.requests().pop().unwrap();
    assert_eq!(last["operation"], "DELETE");
    assert_eq!(last["oldObject"]["data"]["x"], "y");
    assert_eq!(last["object"], Value::Null);
    // The webhook sees that the request is a dry run; the webhook is not called for other kinds.
    let dry = format!("{MAPS}?dryRun=All");
    assert_eq!(api.send("POST", &dry, map("c", json!({}))).await.0, 201);
    assert_eq!(hook.requests()[0]["dryRun"], true);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(api.send("POST", accounts, account).await.0, 201);
    assert_eq!(hook.requests(), [Value::Null; 0]);
    // A webhook is not called for changes of its own configuration.
    let configuration = format!("{GROUP}/{VALIDATING}/look");
    assert_eq!(api.send("DELETE", &configuration, Value::Null).await.0, 200);
    assert_eq!(api.send("DELETE", &one, Value::Null).await.0, 200);
}

#[tokio::test]
async fn webhooks_may_change_what_is_written_and_see_what_others_changed() {
    let api = Api::new().await;
    let first = Hook::start(|_| {
        patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "first"}}]))
    })
    .await;
    let second = Hook::start(|request| {
        let labels = request["object"]["metadata"]["labels"]["by"].clone();
        patch(json!([{"op": "add", "path": "/data/seen", "value": labels}]))
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    make(&api, MUTATING, first.configuration(kind, "a-first", again)).await;
    make(
        &api,
        MUTATING,
        second.configuration(kind, "b-second", json!({})),
    )
    .await;
    let (code, created) = api.send("POST", MAPS, map("a", json!({"x": "y"}))).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["metadata"]["labels"], json!({"by": "first"}));
    assert_eq!(created["data"], json!({"x": "y", "seen": "first"}));
    let admission_requests = first.requests();
    assert_eq!(admission_requests.len(), 2, "once more, after the second");
    assert_eq!(admission_requests[1]["object"]["data"]["seen"], "first");
    assert_eq!(second.requests().len(), 1);
    // A patch whose result is not an object of the kind is an error of the webhook.
    let wrong =
        Hook::start(|_| patch(json!([{"op": "add", "path": "/data", "value": "text"}]))).await;
    make(
        &api,
        MUTATING,
        wrong.configuration(kind, "c-wrong", json!({})),
    )
    .await;
    let (code, refused) = api.send("POST", MAPS, map("b", json!({"x": "y"}))).await;
    assert_eq!(code, 500, "{refused}");
    let why = "Internal error occurred: failed calling webhook \"c-wrong.example.com\": ";
    assert!(
        refused["message"].as_str().unwrap().starts_with(why),
        "{refused}"
    );
}

/// Not all defaults of a pod are computed again after admission, so a change by a webhook that is called again gets
/// its defaults at once.
#[tokio::test]
async fn a_container_of_a_webhook_has_its_defaults_whenever_it_is_added() {
    let api = Api::new().await;
    api.with_account().await;
    let kind = "MutatingWebhookConfiguration";
    let of_pods = |policy: &str| {
        let pods = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"]});
        json!({"rules": [pods], "reinvocationPolicy": policy})
    };
    let container = |name: &str| {
        let value = json!({"name": name, "image": "busybox:1",
            "readinessProbe": {"httpGet": {"port": 80}}});
        json!({"op": "add", "path": "/spec/containers/-", "value": value})
    };
    let count = |request: &Value| {
        request["object"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len()
    };
    let first = Hook::start(move |request| match count(request) {
        1 => json!({"allowed": true}),
        _ => patch(json!([container("third")])),
    })
    .await;
    let second = Hook::start(move |_| patch(json!([container("second")]))).await;
    let again = of_pods("IfNeeded");
    make(&api, MUTATING, first.configuration(kind, "a-first", again)).await;
    let once = of_pods("Never");
    make(&api, MUTATING, second.configuration(kind, "b-second", once)).await;
    let (code, created) = api.send("POST", PODS, pod("a")).await;
    assert_eq!(code, 201, "{created}");
    for (index, name) in [(1, "second"), (2, "third")] {
        let container = &created["spec"]["containers"][index];
        assert_eq!(container["name"], name);
        assert_eq!(container["imagePullPolicy"], "IfNotPresent", "{name}");
        assert_eq!(container["terminationMessagePolicy"], "File", "{name}");
        assert_eq!(
            container["readinessProbe"]["httpGet"]["scheme"], "HTTP",
            "{name}"
        );
    }
}

#[tokio::test]
async fn who_does_not_answer_counts_as_its_policy_says() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": true, "uid": "another"})).await;
    let kind = "ValidatingWebhookConfiguration";
    let ignored = json!({"failurePolicy": "Ignore"});
    make(&api, VALIDATING, hook.configuration(kind, "a", ignored)).await;
    assert_eq!(api.send("POST", MAPS, map("a", json!({}))).await.0, 201);
    // No server listens at this address, and its certificate could not be verified.
    let nobody = json!({"clientConfig": {"url": "https://127.0.0.1:1/"}});
    make(&api, VALIDATING, hook.configuration(kind, "b", nobody)).await;
    let (code, refused) = api.send("POST", MAPS, map("b", json!({}))).await;
    assert_eq!(code, 500);
    let why = "Internal error occurred: failed calling webhook \"b.example.com\": failed to call \
               webhook: Post \"https://127.0.0.1:1/?timeout=5s\": ";
    assert!(
        refused["message"].as_str().unwrap().starts_with(why),
        "{refused}"
    );
    // A Service that does not exist is a failed call, too.
    let path = format!("{GROUP}/{VALIDATING}/b");
    let service = json!({"clientConfig": {"service": {"namespace": "default", "name": "none"}}});
    let service = hook.configuration(kind, "b", service);
    assert_eq!(
        api.send("PUT", &path, with_version(&api, &path, service).await)
            .await
            .0,
        200
    );
    let (code, refused) = api.send("POST", MAPS, map("b", json!({}))).await;
    assert_eq!(code, 500);
    assert!(
        refused
            .to_string()
            .contains("services \\\"none\\\" not found"),
        "{refused}"
    );
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    let of = |name: &str| format!("name=\"{name}.example.com\",type=\"validating\"");
    for line in [
        format!("fail_open_count{{{}}} 3", of("a")),
        format!(
            "rejection_count{{{},operation=\"CREATE\",error_type=\"calling_webhook_error\",rejection_code=\"503\"}} 2",
            of("b")
        ),
        format!(
            "admission_duration_seconds_count{{{},operation=\"CREATE\",rejected=\"true\"}} 2",
            of("b")
        ),
    ] {
        let line = format!("\napiserver_admission_webhook_{line}\n");
        assert!(metrics.contains(&line), "{line} {metrics}");
    }
}

/// Upstream treats such a patch as a failed call (`mutating/dispatcher.go`, `callAttrMutatingHook`).
#[tokio::test]
async fn a_patch_that_cannot_be_decoded_counts_as_the_policy_says() {
    let api = Api::new().await;
    let hook =
        Hook::start(|_| json!({"allowed": true, "patchType": "JSONPatch", "patch": "e30x"})).await;
    let kind = "MutatingWebhookConfiguration";
    let ignored = json!({"failurePolicy": "Ignore"});
    make(&api, MUTATING, hook.configuration(kind, "a", ignored)).await;
    assert_eq!(api.send("POST", MAPS, map("a", json!({}))).await.0, 201);
    make(&api, MUTATING, hook.configuration(kind, "b", json!({}))).await;
    let (code, refused) = api.send("POST", MAPS, map("b", json!({}))).await;
    let why = "Internal error occurred: failed calling webhook \"b.example.com\": received undecodable \
               patch in webhook response: ";
    let message = refused["message"].as_str().unwrap();
    assert!(code == 500 && message.starts_with(why), "{refused}");
}

/// The object with the resource version of the stored object.
async fn with_version(api: &Api, path: &str, mut object: Value) -> Value {
    let (_, stored) = api.get(path).await;
    object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    object
}

#[tokio::test]
async fn selectors_and_conditions_say_when_a_webhook_is_asked() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let kind = "ValidatingWebhookConfiguration";
    let more = json!({
        "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name",
            "operator": "NotIn", "values": ["kube-system"]}]},
        "objectSelector": {"matchLabels": {"look": "yes"}},
        "matchConditions": [{"name": "created", "expression":
            "request.operation == 'CREATE' && !(has(object.data) && 'skip' in object.data)"}]});
    make(&api, VALIDATING, hook.configuration(kind, "a", more)).await;
    let with_label = |name: &str, data: Value| {
        let mut object = map(name, data);
        object["metadata"]["labels"] = json!({"look": "yes"});
        object
    };
    let system = "/api/v1/namespaces/kube-system/configmaps";
    for (path, object, times) in [
        (MAPS, map("a", json!({})), 0),
        (MAPS, with_label("b", json!({"skip": "1"})), 0),
        (system, with_label("c", json!({})), 0),
        (MAPS, with_label("d", json!({})), 1),
    ] {
        let (code, response) = api.send("POST", path, object).await;
        assert_eq!(code, 201, "{response}");
        assert_eq!(hook.requests().len(), times, "{response}");
    }
    let bad = json!({"matchConditions": [{"name": "a", "expression": "object."}]});
    let bad = hook.configuration(kind, "bad", bad);
    let (code, refused) = api
        .send("POST", &format!("{GROUP}/{VALIDATING}"), bad)
        .await;
    assert_eq!(code, 422);
    let field = "webhooks[0].matchConditions[0].expression";
    assert_eq!(refused["details"]["causes"][0]["field"], field);
}

#[tokio::test]
async fn scales_are_shown_as_scales() {
    let api = Api::new().await;
    let hook = Hook::start(|request| {
        let few = request["object"]["spec"]["replicas"].as_u64() < Some(5);
        json!({"allowed": few})
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let more = json!({"rules": [{"operations": ["UPDATE"], "apiGroups": ["apps"],
        "apiVersions": ["*"], "resources": ["*/scale"]}]});
    make(&api, VALIDATING, hook.configuration(kind, "few", more)).await;
    api.create(SETS, stateful_set("web")).await;
    let scale = format!("{SETS}/web/scale");
    let to = |replicas: u32| json!({"spec": {"replicas": replicas}});
    assert_eq!(api.patch(&scale, "merge", to(3)).await.0, 200);
    let (code, refused) = api.patch(&scale, "merge", to(7)).await;
    assert_eq!(code, 400, "{refused}");
    let why = "admission webhook \"few.example.com\" denied the request without explanation";
    assert_eq!(refused["message"], why);
    let admission_requests = hook.requests();
    let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
    assert_eq!(admission_requests[0]["kind"], scale);
    assert_eq!(admission_requests[0]["subResource"], "scale");
    assert_eq!(admission_requests[0]["oldObject"]["spec"]["replicas"], 1);
}

fn policy(more: Value) -> Value {
    let mut object = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "few"},
        "spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE", "UPDATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}}});
    for (field, value) in more.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

fn binding(more: Value) -> Value {
    let mut object = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "here"},
        "spec": {"policyName": "few", "validationActions": ["Deny"]}});
    for (field, value) in more.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

const POLICIES: &str = "validatingadmissionpolicies";
const BINDINGS: &str = "validatingadmissionpolicybindings";

#[tokio::test]
async fn a_policy_holds_where_it_is_bound() {
    let api = Api::new().await;
    let rules = json!({"variables": [{"name": "count", "expression": "size(object.data)"}],
        "validations": [{"expression": "variables.count < 3",
            "messageExpression": "'too many: ' + string(variables.count)"},
            {"expression": "!('a' in object.data)", "reason": "Forbidden", "message": "no a"}]});
    make(&api, POLICIES, policy(rules)).await;
    let many = json!({"x": "1", "y": "2", "z": "3"});
    assert_eq!(api.send("POST", MAPS, map("a", many.clone())).await.0, 201);
    let only = json!({"matchResources": {"namespaceSelector": {"matchLabels":
        {"kubernetes.io/metadata.name": "default"}}}});
    make(&api, BINDINGS, binding(only)).await;
    let (code, refused) = api.send("POST", MAPS, map("b", many.clone())).await;
    assert_eq!(code, 422);
    let why = "configmaps \"b\" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'here' \
               denied request: too many: 3";
    assert_eq!(refused["message"], why);
    assert_eq!(refused["reason"], "Invalid");
    let (code, refused) = api.send("POST", MAPS, map("b", json!({"a": "1"}))).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    let system = "/api/v1/namespaces/kube-system/configmaps";
    assert_eq!(
        api.send("POST", system, map("b", many.clone())).await.0,
        201
    );
    // An expression that fails does not count as true.
    let (code, refused) = api
        .send(
            "POST",
            MAPS,
            json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "c"}}),
        )
        .await;
    assert_eq!(code, 422, "{refused}");
    assert!(
        refused.to_string().contains("resulted in error: "),
        "{refused}"
    );
    // From now on, the violation only causes a warning.
    let path = format!("{GROUP}/{BINDINGS}/here");
    let warn = json!({"spec": {"validationActions": ["Warn"]}});
    assert_eq!(api.patch(&path, "merge", warn).await.0, 200);
    let created = post(&api, map("d", many)).await;
    assert_eq!(created.code, 201);
    let warning = created.headers["warning"].to_str().unwrap();
    assert!(
        warning.contains("Validation failed for ValidatingAdmissionPolicy 'few'"),
        "{warning}"
    );
}

#[tokio::test]
async fn a_policy_may_have_settings() {
    let api = Api::new().await;
    make(
        &api,
        POLICIES,
        policy(json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "matchConditions": [{"name": "named", "expression": "object.metadata.name != 'free'"}],
        "validations": [{"expression": "object.metadata.name != params.metadata.name"}]})),
    )
    .await;
    let settings = json!({"paramRef": {"name": "never", "parameterNotFoundAction": "Deny"}});
    make(&api, BINDINGS, binding(settings)).await;
    let (code, refused) = api.send("POST", MAPS, map("a", json!({}))).await;
    assert_eq!(code, 422);
    assert!(refused.to_string().contains("no params found"), "{refused}");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "never"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(api.send("POST", secrets, secret).await.0, 201);
    assert_eq!(api.send("POST", MAPS, map("a", json!({}))).await.0, 201);
    assert_eq!(api.send("POST", MAPS, map("never", json!({}))).await.0, 422);
    assert_eq!(api.send("POST", MAPS, map("free", json!({}))).await.0, 201);
}

/// kubectl.md 10.5: the served groups are listed as upstream lists them, and no other server may replace them.
#[tokio::test]
async fn groups_that_are_served_have_their_objects() {
    let api = Api::new().await;
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let (_, listed) = api.get(services).await;
    let items = listed["items"].as_array().unwrap();
    let find = |name: &str| items.iter().find(|item| item["metadata"]["name"] == name);
    for name in ["v1.", "v1.apps", "v1.apiregistration.k8s.io"] {
        let entry = find(name).unwrap_or_else(|| panic!("{name} is not in {listed}"));
        let condition = &entry["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("Available"), &json!("True"))
        );
    }
    let remote = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v2.apps"}, "spec": {"group": "apps", "version": "v2",
            "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "default", "name": "s"}}});
    let (code, refused) = api.send("POST", services, remote).await;
    assert_eq!(code, 422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.service");
}

#[tokio::test]
async fn each_webhook_of_a_configuration_has_owners_of_its_own() {
    // kubectl.md 2.3, 2.4
    let api = Api::new().await;
    let hook = |name: &str| {
        json!({"name": format!("{name}.example.com"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1/x"}})
    };
    let configuration = |hooks: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "c"},
            "webhooks": hooks})
    };
    let path = |manager: &str| format!("{GROUP}/{VALIDATING}/c?fieldManager={manager}");
    for name in ["one", "two"] {
        let config = configuration(json!([hook(name)]));
        let (code, response) = api.patch(&path(name), "apply", config).await;
        assert!(code < 300, "{response}");
    }
    let merge = json!({"webhooks": [{"name": "two.example.com", "timeoutSeconds": 3}]});
    let (_, merged) = api.patch(&path("three"), "strategic", merge).await;
    let seconds = |at: usize| merged["webhooks"][at]["timeoutSeconds"].clone();
    assert_eq!((seconds(0), seconds(1)), (json!(10), json!(3)), "{merged}");
    let nothing = configuration(json!([]));
    let (_, left) = api.patch(&path("one"), "apply", nothing).await;
    let names = left["webhooks"].as_array().unwrap().iter();
    let names: Vec<&Value> = names.map(|hook| &hook["name"]).collect();
    assert_eq!(names, ["two.example.com"]);
}

#[tokio::test]
async fn who_asks_for_another_version_gets_it_in_its_words() {
    let api = Api::new().await;
    let hook = Hook::start(|request| {
        let share = &request["object"]["spec"]["targetCPUUtilizationPercentage"];
        match share.as_u64() {
            Some(50) => patch(
                json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 4},
                {"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 60}]),
            ),
            _ => json!({"allowed": true}),
        }
    })
    .await;
    let first = json!([{"operations": ["*"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"]}]);
    let kind = "MutatingWebhookConfiguration";
    let configuration = hook.configuration(kind, "first", json!({"rules": first}));
    make(&api, MUTATING, configuration).await;
    let rules = json!({"matchConstraints": {"resourceRules": first},
        "validations": [{"expression": "object.spec.targetCPUUtilizationPercentage == 60",
            "message": "not sixty"}]});
    make(&api, POLICIES, policy(rules)).await;
    make(&api, BINDINGS, binding(json!({}))).await;
    let scaler = |share: u32| {
        json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 9,
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": share}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let (code, created) = api.send("POST", path, scaler(50)).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(
        (&created["apiVersion"], &created["spec"]["maxReplicas"]),
        (&json!("autoscaling/v2"), &json!(4))
    );
    let metric = &created["spec"]["metrics"][0]["resource"];
    assert_eq!(metric["target"]["averageUtilization"], 60);
    let admission_request = hook.requests().remove(0);
    for (field, version) in [("kind", "v1"), ("requestKind", "v2")] {
        assert_eq!(admission_request[field]["version"], version, "{field}");
    }
    assert_eq!(admission_request["object"]["apiVersion"], "autoscaling/v1");
    let mut other = scaler(70);
    other["metadata"]["name"] = json!("b");
    let (code, refused) = api.send("POST", path, other).await;
    assert_eq!(code, 422);
    assert!(refused.to_string().contains("not sixty"), "{refused}");
}

/// As kube-apiserver, which sets these fields after mutating admission (KEP-3633; the QoS class of a pod with the
/// defaults of a LimitRange).
#[tokio::test]
async fn fields_that_depend_on_admission_are_those_of_the_admitted_pod() {
    let api = Api::new().await;
    api.with_account().await;
    let limits = json!({"limits": [{"type": "Container", "defaultRequest": {"cpu": "100m"}}]});
    let range = json!({"metadata": {"name": "defaults"}, "spec": limits});
    api.create("/api/v1/namespaces/default/limitranges", range)
        .await;
    let hook = Hook::start(|_| {
        patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"version": "2"}}]))
    })
    .await;
    let rules = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods"]}]});
    let kind = "MutatingWebhookConfiguration";
    make(&api, MUTATING, hook.configuration(kind, "label", rules)).await;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {},
        "matchLabelKeys": ["version"]});
    let mut one = pod("one");
    one["spec"]["affinity"] = json!({"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let created = api.create(PODS, one).await;
    assert_eq!(created["metadata"]["labels"], json!({"version": "2"}));
    let selector = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0\
                    /labelSelector/matchExpressions";
    let expected = json!([{"key": "version", "operator": "In", "values": ["2"]}]);
    assert_eq!(created.pointer(selector), Some(&expected), "{created}");
    assert_eq!(created["status"]["qosClass"], "Burstable", "{created}");
}
