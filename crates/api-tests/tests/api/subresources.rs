//! scale, binding, log, exec.

use json_tree::{Value, json};

use crate::harness::{Api, PODS, SETS, pod, stateful_set};

#[tokio::test]
async fn scale_is_a_view_of_the_set() {
    // kubectl.md 3.1, statefulset.md 6.3
    let api = Api::new().await;
    let set = api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web/scale");
    let (code, scale) = api.get(&path).await;
    assert_eq!(code, 200);
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"]["selector"], "app=web");
    assert_eq!(scale["metadata"]["uid"], set["metadata"]["uid"]);
    let (code, scale) = api
        .patch(&path, "merge", json!({"spec": {"replicas": 4}}))
        .await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(4)));
    let (_, set) = api.get(&format!("{SETS}/web")).await;
    assert_eq!(
        (&set["spec"]["replicas"], &set["metadata"]["generation"]),
        (&json!(4), &json!(2))
    );
    let mut sent = scale.clone();
    sent["spec"]["replicas"] = json!(-1);
    let (code, status) = api.send("PUT", &path, sent.clone()).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("must be greater than or equal to 0")
    );
    sent["spec"]["replicas"] = json!(2);
    assert_eq!(api.send("PUT", &path, sent.clone()).await.0, 200);
    // The old resource version: another client has scaled meanwhile.
    assert_eq!(api.send("PUT", &path, sent).await.0, 409);
    assert_eq!(api.send("POST", &path, json!({})).await.0, 405);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let path = format!("{PODS}/p/binding");
    let binding = |node: &str| json!({"target": {"kind": "Node", "name": node}});
    let (code, status) = api.send("POST", &path, json!({"target": {}})).await;
    assert_eq!(code, 422, "{status}");
    let (code, status) = api.send("POST", &path, binding("n1")).await;
    assert_eq!((code, &status["status"]), (201, &json!("Success")));
    let (_, bound) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c["type"] == "PodScheduled" && c["status"] == "True")
    );
    let (code, status) = api.send("POST", &path, binding("n2")).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to \
         node \"n1\""
    );
}

/// findings-2 C41: existing labels are replaced, as upstream.
#[tokio::test]
async fn a_bound_pod_has_the_zone_and_the_region_of_its_node() {
    let api = Api::new().await;
    api.with_account().await;
    let (zone, region) = (
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    );
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let labels = json!({zone: "z1", region: "r1", "other": "x"});
    api.create("/api/v1/nodes", node("n1", labels)).await;
    api.create("/api/v1/nodes", node("n2", json!({}))).await;
    let bound = async |name: &str, target: &str| {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"a": "b", zone: "mine"});
        api.create(PODS, pod).await;
        let binding = json!({"target": {"kind": "Node", "name": target}});
        let path = format!("{PODS}/{name}/binding");
        assert_eq!(api.send("POST", &path, binding).await.0, 201);
        let (_, pod) = api.get(&format!("{PODS}/{name}")).await;
        pod["metadata"]["labels"].clone()
    };
    let bound_labels = json!({"a": "b", zone: "z1", region: "r1"});
    assert_eq!(bound("p1", "n1").await, bound_labels);
    let labels = json!({"a": "b", zone: "mine"});
    assert_eq!(bound("p2", "n2").await, labels);
    assert_eq!(bound("p3", "unknown").await, labels);
    // The pod is created with its node.
    let mut direct = pod("p4");
    direct["spec"]["nodeName"] = json!("n1");
    let created = api.create(PODS, direct).await;
    assert_eq!(
        created["metadata"]["labels"],
        json!({zone: "z1", region: "r1"})
    );
}

#[tokio::test]
async fn logs_and_commands_go_to_the_pods_node() {
    // kubectl.md 5.1, 5.7
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let log = |query: &str| format!("{PODS}/p/log{query}");
    let empty = api.raw("GET", &log(""), &[], "").await;
    assert_eq!((empty.code, empty.bytes.len()), (200, 0));
    let exec = format!("{PODS}/p/exec?command=sh&command=-c&command=a%20b&stdout=true");
    let (code, status) = api.send("POST", &exec, Value::Null).await;
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("pod p does not have a host assigned"))
    );
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    api.create(&format!("{PODS}/p/binding"), binding).await;
    let response = api
        .raw("GET", &log("?tailLines=5&follow=true&x=y"), &[], "")
        .await;
    assert_eq!(
        response.text(),
        "GET /containerLogs/default/p/c?follow=true&tailLines=5"
    );
    let response = api.raw("POST", &exec, &[], "").await;
    assert_eq!(
        response.text(),
        "POST /exec/default/p/c?command=sh&command=-c&command=a%20b&stdout=true"
    );
    let forward = format!("{PODS}/p/portforward?ports=80");
    let response = api.raw("POST", &forward, &[], "").await;
    assert_eq!(response.text(), "POST /portForward/default/p?ports=80");
    let wrong = api.raw("GET", &log("?container=nope"), &[], "").await;
    assert_eq!(
        wrong.json()["message"],
        "container nope is not valid for pod p"
    );
    let waiting = api.raw("GET", &log("?sinceTime=waiting"), &[], "").await;
    assert_eq!(waiting.code, 400);
    assert_eq!(waiting.json()["message"], "container is waiting to start");
    assert_eq!(waiting.json()["reason"], "BadRequest");
    api.create(PODS, pod("q")).await;
    let away = json!({"target": {"kind": "Node", "name": "away"}});
    api.create(&format!("{PODS}/q/binding"), away).await;
    let response = api.raw("GET", &format!("{PODS}/q/log"), &[], "").await;
    assert_eq!(response.code, 503);
    assert_eq!(api.node.requests.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn requests_are_passed_on_to_what_listens() {
    // kubectl.md 5.9
    let api = Api::new().await;
    api.with_account().await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let node = "/api/v1/nodes/n1/proxy";
    let response = api.raw("GET", &format!("{node}/pods?a=b"), &[], "").await;
    assert_eq!(
        (response.code, response.text().as_str()),
        (200, "GET /pods?a=b")
    );
    let response = api.raw("GET", &format!("{node}?a=b"), &[], "").await;
    assert_eq!(response.code, 301);
    assert_eq!(response.headers["location"], format!("{node}/?a=b"));
    assert_eq!(api.get("/api/v1/nodes/none/proxy/x").await.0, 404);
    // findings-2 C33: another port of the node belongs to another program, which is not reached through the
    // connection to the node's API.
    let response = api.raw("GET", "/api/v1/nodes/n1:10250/proxy/pods", &[], "");
    assert_eq!(response.await.text(), "GET /pods");
    for (name, code, message) in [
        // A node without an address cannot be reached.
        ("n1:9100", 400, "address not allowed"),
        ("n1:x", 400, "invalid port \"x\""),
        ("n1:70000", 400, "invalid port \"70000\""),
        ("none:9100", 404, "nodes \"none\" not found"),
    ] {
        let (actual, status) = api.get(&format!("/api/v1/nodes/{name}/proxy/x")).await;
        let got = (actual, &status["message"]);
        assert_eq!(got, (code, &json!(message)), "{name}");
    }

    // Pods and Services: only their own addresses can be reached.
    let (_, mut object) = api.send("POST", PODS, pod("p")).await;
    object["status"]["podIP"] = json!("127.0.0.1");
    object["status"]["podIPs"] = json!([{"ip": "127.0.0.1"}]);
    let (code, _) = api.send("PUT", &format!("{PODS}/p/status"), object).await;
    assert_eq!(code, 200);
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}]}});
    api.create(services, service).await;
    for (path, code, message) in [
        (format!("{PODS}/p:80/proxy/"), 400, "address not allowed"),
        (format!("{PODS}/p:x/proxy/"), 400, "invalid port \"x\""),
        (
            format!("{services}/s/proxy/"),
            503,
            "no endpoints available for service \"s\"",
        ),
        (
            format!("{services}/s:none/proxy/"),
            503,
            "no service port \"none\" found for service \"s\"",
        ),
        (
            format!("{services}/https:s:80/proxy/"),
            400,
            "proxying to https is not supported",
        ),
    ] {
        let (actual, status) = api.get(&path).await;
        assert_eq!(
            (actual, &status["message"]),
            (code, &json!(message)),
            "{path}"
        );
    }
}

// findings C15
#[tokio::test]
async fn a_scale_of_none_leaves_the_number_out() {
    let api = Api::new().await;
    let mut set = stateful_set("web");
    set["spec"]["replicas"] = json!(0);
    api.create(SETS, set).await;
    let (_, scale) = api.get(&format!("{SETS}/web/scale")).await;
    assert_eq!(
        (&scale["spec"], &scale["status"]["replicas"]),
        (&json!({}), &json!(0))
    );
}

/// A write of the status, a binding and a deletion keep the other parts of a pod as text.
#[tokio::test]
async fn a_part_that_is_not_written_stays_as_it_is() {
    // statefulset.md 12.7
    let api = Api::new().await;
    api.with_account().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"hard": {"requests.cpu": "1", "pods": "1"}});
    let quota = json!({"metadata": {"name": "q"}, "spec": hard});
    api.create(quotas, quota).await;
    let used = || async { api.get(&format!("{quotas}/q")).await.1["status"]["used"].clone() };
    let mut new = pod("p");
    new["metadata"]["finalizers"] = json!(["example.com/f"]);
    new["metadata"]["annotations"] = json!({"a": "\"spec\":{"});
    new["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    new["spec"]["containers"][0]["args"] = json!(["\u{e9} \"status\":{}", "\\"]);
    new["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
    let mut expected = api.create(PODS, new).await;
    let path = format!("{PODS}/p");
    let (status, binding) = (format!("{path}/status"), format!("{path}/binding"));
    let target = json!({"metadata": {"annotations": {"b": "\\"}},
        "target": {"kind": "Node", "name": "n\"1"}});
    assert_eq!(api.send("POST", &binding, target).await.0, 201);
    let (_, bound) = api.get(&path).await;
    expected["spec"]["nodeName"] = json!("n\"1");
    expected["metadata"]["annotations"]["b"] = json!("\\");
    assert_eq!(bound["spec"], expected["spec"]);
    for field in ["annotations", "managedFields", "generation"] {
        assert_eq!(bound["metadata"][field], expected["metadata"][field]);
    }
    let spec = |object: &Value| object["spec"].clone();

    let running = json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "i",
        "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    let more = json!({"spec": {"nodeName": "n2", "containers": [{"name": "d", "image": "x"}]},
        "status": {"message": "m"}});
    for (form, patch, phase) in [
        ("strategic", json!({"status": running}), "Running"),
        (
            "merge",
            json!({"status": {"hostIP": "10.0.0.1"}}),
            "Running",
        ),
        ("merge", more.clone(), "Running"),
        ("strategic", more, "Running"),
        (
            "json",
            json!([{"op": "add", "path": "/status/reason", "value": "r"}]),
            "Running",
        ),
        (
            "merge",
            json!({"metadata": {"labels": {"l": "1"}}}),
            "Running",
        ),
        ("merge", json!({"status": {"phase": "Pending"}}), "Pending"),
    ] {
        let (code, written) = api.patch(&status, form, patch.clone()).await;
        assert_eq!(
            (code, &written["status"]["phase"]),
            (200, &json!(phase)),
            "{form} {patch}"
        );
        assert_eq!(spec(&written), spec(&bound), "{form} {patch}");
        assert_eq!(written["status"]["qosClass"], "Burstable");
        assert_eq!(api.get(&path).await.1, written);
    }
    let (_, mut sent) = api.get(&path).await;
    sent["status"]["phase"] = json!("Running");
    sent["spec"] = json!({"containers": [{"name": "other", "image": "o"}]});
    let (code, written) = api.send("PUT", &status, sent).await;
    assert_eq!((code, spec(&written)), (200, spec(&bound)));
    let wrong = json!({"status": {"phase": "Odd"}});
    assert_eq!(api.patch(&status, "merge", wrong).await.0, 422);
    let wrong = json!({"spec": {"containers": 1}});
    assert_eq!(api.patch(&status, "merge", wrong).await.0, 422);
    assert_eq!(used().await, json!({"pods": "1", "requests.cpu": "100m"}));

    let (code, marked) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!((code, spec(&marked)), (200, spec(&bound)));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["status"], written["status"]);
    let ended = json!({"metadata": {"finalizers": null}, "status": {"phase": "Succeeded"}});
    let (code, ended) = api.patch(&status, "merge", ended).await;
    assert_eq!((code, spec(&ended)), (200, spec(&bound)));
    assert_eq!(used().await, json!({"pods": "0", "requests.cpu": "0"}));
    let at_once = format!("{path}?gracePeriodSeconds=0");
    let (code, deleted) = api.send("DELETE", &at_once, Value::Null).await;
    assert_eq!((code, spec(&deleted)), (200, spec(&bound)));
    assert_eq!(api.get(&path).await.0, 404);
    assert_eq!(used().await, json!({"pods": "0", "requests.cpu": "0"}));
}

#[tokio::test]
async fn a_sets_status_leaves_its_spec_as_it_is() {
    // statefulset.md 5.17
    let api = Api::new().await;
    let created = api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web/status");
    let status = json!({"status": {"replicas": 1, "observedGeneration": 1}});
    for form in ["merge", "strategic"] {
        let (code, written) = api.patch(&path, form, status.clone()).await;
        assert_eq!((code, &written["status"]["replicas"]), (200, &json!(1)));
        assert_eq!(written["spec"].to_string(), created["spec"].to_string());
        assert_eq!(written["metadata"]["generation"], 1);
    }
    let wrong = json!({"status": {"replicas": -1}});
    assert_eq!(api.patch(&path, "merge", wrong).await.0, 422);
}
