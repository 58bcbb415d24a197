//! Numbers at the limits of their range, in every field that clients may set: each is refused or accepted, and
//! nothing panics.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, pod, stateful_set};

const TABLE: [(&str, &str); 1] = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];

const NUMBERS: [i64; 8] = [
    i64::MAX,
    i64::MIN,
    i64::MAX / 1_000_000_000,
    i32::MAX as i64,
    i32::MAX as i64 + 1,
    i32::MIN as i64,
    0,
    -1,
];

/// findings S32: query parameters.
#[tokio::test]
async fn parameters_at_the_ends_of_their_range_are_no_failure() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let mut on_node = pod("p");
    on_node["spec"]["nodeName"] = json!("n1");
    api.create(PODS, on_node).await;
    let past = ["18446744073709551615", "9223372036854775808", "1e9", "-0"];
    let numbers: Vec<String> = NUMBERS.iter().map(i64::to_string).collect();
    let all = numbers.iter().map(String::as_str).chain(past);
    for number in all {
        for (method, path) in [
            ("GET", format!("{CONFIG_MAPS}?limit={number}")),
            ("GET", format!("{CONFIG_MAPS}?resourceVersion={number}")),
            (
                "GET",
                format!("{CONFIG_MAPS}?resourceVersion={number}&resourceVersionMatch=Exact"),
            ),
            ("GET", format!("{CONFIG_MAPS}?timeoutSeconds={number}")),
            (
                "GET",
                format!("{CONFIG_MAPS}?watch=1&timeoutSeconds={number}"),
            ),
            (
                "GET",
                format!("{CONFIG_MAPS}?watch=1&resourceVersion={number}"),
            ),
            ("GET", format!("{CONFIG_MAPS}/a?resourceVersion={number}")),
            ("GET", format!("{PODS}/p/log?tailLines={number}")),
            ("GET", format!("{PODS}/p/log?limitBytes={number}")),
            ("GET", format!("{PODS}/p/log?sinceSeconds={number}")),
            (
                "DELETE",
                format!("{PODS}/p?dryRun=All&gracePeriodSeconds={number}"),
            ),
            (
                "DELETE",
                format!("{PODS}?dryRun=All&gracePeriodSeconds={number}"),
            ),
            (
                "DELETE",
                format!("{CONFIG_MAPS}?dryRun=All&limit={number}&timeoutSeconds={number}"),
            ),
        ] {
            // Only the status code is read, because a watch does not end.
            let response = api.respond(method, &path, &[], "").await;
            assert_ne!(response.status().as_u16(), 500, "{method} {path}");
        }
    }
}

/// The path of every number in an object.
fn numbers(object: &Value, path: &str, paths: &mut Vec<String>) {
    match object {
        Value::Number(_) => paths.push(path.to_owned()),
        Value::Object(fields) => {
            for (name, value) in fields {
                numbers(value, &format!("{path}/{name}"), paths);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                numbers(item, &format!("{path}/{index}"), paths);
            }
        }
        _ => {}
    }
}

fn probe() -> Value {
    json!({"httpGet": {"port": 80}, "initialDelaySeconds": 1, "periodSeconds": 1, "timeoutSeconds": 1,
        "successThreshold": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1})
}

fn full_pod_spec() -> Value {
    json!({
        "activeDeadlineSeconds": 1,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 1, "runAsGroup": 1, "fsGroup": 1, "supplementalGroups": [1]},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 1}],
        "topologySpreadConstraints": [{"maxSkew": 1, "minDomains": 1, "topologyKey": "k",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}]}},
        "volumes": [
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 1,
                "items": [{"key": "k", "path": "p", "mode": 1}]}},
            {"name": "t", "projected": {"defaultMode": 1, "sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
        ],
        "containers": [{
            "name": "c", "image": "i",
            "ports": [{"containerPort": 1, "hostPort": 1}],
            "securityContext": {"runAsUser": 1, "runAsGroup": 1},
            "resources": {"requests": {"cpu": 1, "memory": 1}, "limits": {"cpu": 2, "memory": 2}},
            "livenessProbe": probe(),
            "startupProbe": probe(),
            "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        }],
    })
}

fn template() -> Value {
    let mut spec = full_pod_spec();
    // Only pods of jobs may set this field.
    spec["activeDeadlineSeconds"] = Value::Null;
    json!({"metadata": {"labels": {"app": "a"}}, "spec": spec})
}

fn job_spec() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"parallelism": 1, "completions": 1, "backoffLimit": 1, "activeDeadlineSeconds": 1,
        "ttlSecondsAfterFinished": 1, "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]},
        "template": template})
}

/// The path of a collection, and an object with every number that clients send.
fn objects() -> Vec<(&'static str, Value)> {
    let selector = json!({"matchLabels": {"app": "a"}});
    let mut set = stateful_set("s")["spec"].clone();
    set["selector"] = selector.clone();
    set["template"] = template();
    for (name, value) in [
        ("replicas", json!(1)),
        ("minReadySeconds", json!(1)),
        ("revisionHistoryLimit", json!(1)),
        ("ordinals", json!({"start": 1})),
        (
            "updateStrategy",
            json!({"rollingUpdate": {"partition": 1, "maxUnavailable": 1}}),
        ),
    ] {
        set[name] = value;
    }
    vec![
        (PODS, full_pod_spec()),
        ("/apis/apps/v1/namespaces/default/statefulsets", set),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"replicas": 1, "minReadySeconds": 1, "revisionHistoryLimit": 1,
                "progressDeadlineSeconds": 2, "selector": selector, "template": template(),
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}),
        ),
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            json!({"minReadySeconds": 1, "revisionHistoryLimit": 1, "selector": selector,
                "template": template(), "updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}),
        ),
        ("/apis/batch/v1/namespaces/default/jobs", job_spec()),
        (
            "/apis/batch/v1/namespaces/default/cronjobs",
            json!({"schedule": "* * * * *", "startingDeadlineSeconds": 1,
                "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
                "jobTemplate": {"spec": job_spec()}}),
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({"type": "NodePort", "selector": {"app": "a"}, "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
                "ports": [{"port": 1, "targetPort": 1, "nodePort": 30001}]}),
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s"},
                "minReplicas": 1, "maxReplicas": 1,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 1}}}],
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 1,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}]}}}),
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"minAvailable": 1, "selector": selector}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 1, "endPort": 1}]}]}),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            json!({"holderIdentity": "h", "leaseDurationSeconds": 1, "leaseTransitions": 1}),
        ),
        (
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            json!({"request": "", "signerName": "example.com/s", "usages": ["digital signature"],
                "expirationSeconds": 600}),
        ),
    ]
}

/// Objects whose numbers are not in a `spec`.
fn flat_objects() -> Vec<(&'static str, Value)> {
    vec![
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.9"]}],
                "ports": [{"name": "p", "port": 1}]}),
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.244.0.9"}], "ports": [{"port": 1}]}]}),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            json!({"value": 1}),
        ),
        (
            "/api/v1/namespaces/default/events",
            json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
                "reason": "r", "message": "m", "count": 1}),
        ),
        (
            "/apis/apps/v1/namespaces/default/controllerrevisions",
            json!({"revision": 1, "data": {"a": 1}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            json!({"webhooks": [{"name": "h.example.com", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "timeoutSeconds": 1, "rules": [],
                "clientConfig": {"service": {"namespace": "d", "name": "s", "port": 1}}}]}),
        ),
    ]
}

/// findings S32: fields of objects, at their creation and in tables.
#[tokio::test]
async fn fields_at_the_ends_of_their_range_are_no_failure() {
    let api = Api::new().await;
    api.with_account().await;
    let in_spec = objects().into_iter();
    let in_spec = in_spec.map(|(path, spec)| (path, json!({"spec": spec})));
    let (mut tried, mut accepted) = (0, 0);
    for (path, sample) in in_spec.chain(flat_objects()) {
        let mut paths = Vec::new();
        numbers(&sample, "", &mut paths);
        assert!(!paths.is_empty(), "{path}");
        for pointer in paths {
            for number in NUMBERS {
                let mut object = sample.clone();
                object["metadata"] = json!({"generateName": "x-"});
                *object.pointer_mut(&pointer).unwrap() = json!(number);
                let (code, response) = api.send("POST", path, object).await;
                assert_ne!(code, 500, "{path} {pointer} {number}: {response}");
                tried += 1;
                if code != 201 {
                    continue;
                }
                accepted += 1;
                let name = response["metadata"]["name"].as_str().unwrap();
                let one = format!("{path}/{name}");
                let table = api.raw("GET", &one, &TABLE, "").await;
                assert_eq!(table.code, 200, "{pointer} {number}: {}", table.text());
                let (code, response) = api.send("DELETE", &one, Value::Null).await;
                assert!(code < 300, "{pointer} {number}: {response}");
            }
        }
    }
    assert!(tried > 500 && accepted > 200, "{accepted} of {tried} taken");
}

/// findings S32: bodies of sub-resources and of deletions.
#[tokio::test]
async fn bodies_at_the_ends_of_their_range_are_no_failure() {
    let api = Api::new().await;
    api.with_account().await;
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    api.create(sets, stateful_set("s")).await;
    api.create(PODS, pod("p")).await;
    for number in NUMBERS {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
            "gracePeriodSeconds": number, "dryRun": ["All"]});
        for (method, path, body) in [
            (
                "POST",
                "/api/v1/namespaces/default/serviceaccounts/default/token".to_owned(),
                json!({"spec": {"expirationSeconds": number}}),
            ),
            (
                "PUT",
                format!("{sets}/s/scale"),
                json!({"metadata": {"name": "s"}, "spec": {"replicas": number}}),
            ),
            (
                "POST",
                format!("{PODS}/p/eviction"),
                json!({"metadata": {"name": "p"}, "deleteOptions": options}),
            ),
            ("DELETE", format!("{PODS}/p"), options.clone()),
            ("DELETE", PODS.to_owned(), options.clone()),
        ] {
            let (code, response) = api.send(method, &path, body).await;
            assert_ne!(code, 500, "{method} {path} {number}: {response}");
        }
        let patch = json!({"status": {"observedGeneration": number, "replicas": number,
            "collisionCount": number}});
        let (code, response) = api.patch(&format!("{sets}/s/status"), "merge", patch).await;
        assert_ne!(code, 500, "status {number}: {response}");
        let table = api.raw("GET", sets, &TABLE, "").await;
        assert_eq!(table.code, 200, "{number}: {}", table.text());
    }
}
