//! The reach of a stolen node: requests with the certificate of a node `n1`, and with the tokens that the node can
//! get. `docs/security.md` contains the table in words.
//!
//! Writes are dry runs: authorisation and admission decide, and nothing is stored.

use json_tree::{Value, json};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use resource_kinds::NodeAccount;

use kube_api_server::UserInfo;

use crate::harness::Api;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const SYSTEM: &str = "/api/v1/namespaces/kube-system/serviceaccounts";
const HOME: &str = "/api/v1/namespaces/default";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A pod that uses objects with its own name.
fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "serviceAccountName": name,
            "containers": [{"name": "c", "image": "i",
                "envFrom": [{"configMapRef": {"name": name}}, {"secretRef": {"name": name}}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    })
}

fn claim(name: &str, node: &str, volume: &str) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {
            "volume.kubernetes.io/selected-node": node,
            "volume.kubernetes.io/storage-provisioner": "mainstay.dev/local"}},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}}},
    })
}

fn volume(claim: &Value, node: &str) -> Value {
    let uid = claim["metadata"]["uid"].as_str().unwrap();
    json!({
        "metadata": {"name": format!("pvc-{uid}"),
            "annotations": {"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "default", "name": claim["metadata"]["name"], "uid": uid},
            "local": {"path": "/v"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
            "storageClassName": "local",
        },
    })
}

/// A CertificateSigningRequest for a subject.
fn request(name: &str, organization: &str, signer: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let names = &mut params.distinguished_name;
    names.push(DnType::OrganizationName, organization);
    names.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({"metadata": {"name": "r"}, "spec": {
        "request": k8s_openapi::ByteString(pem.into_bytes()), "signerName": signer,
        "usages": ["digital signature", "client auth"]}})
}

/// The names and UIDs that the server generated.
struct Names {
    /// UIDs of the Nodes `n1` and `n2`.
    nodes: [String; 2],
    /// UIDs of the pods `own` and `theirs`.
    pods: [String; 2],
    /// The bound volumes of both nodes.
    volumes: [String; 2],
    /// The unbound claims that the scheduler has assigned to the two nodes.
    claims: [Value; 2],
}

/// Two nodes, each with a pod that uses a Secret, a ConfigMap, an account and a claim.
async fn create_objects(api: &Api) -> Names {
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    let (mut volumes, mut claims) = (Vec::new(), Vec::new());
    for (name, node) in [("own", "n1"), ("theirs", "n2")] {
        let node_object = json!({"metadata": {"name": node}});
        nodes.push(uid(&api.create(NODES, node_object.clone()).await));
        api.create(LEASES, node_object).await;
        for plural in ["secrets", "configmaps", "serviceaccounts"] {
            let object = json!({"metadata": {"name": name}});
            api.create(&format!("{HOME}/{plural}"), object).await;
        }
        let path = format!("{HOME}/persistentvolumeclaims");
        let open = claim(&format!("{name}-new"), node, "");
        claims.push(api.create(&path, open).await);
        let bound = api.create(&path, claim(name, node, "")).await;
        let created = api.create(VOLUMES, volume(&bound, node)).await;
        let volume = created["metadata"]["name"].as_str().unwrap().to_owned();
        let binding = json!({"spec": {"volumeName": volume}});
        let (code, response) = api.patch(&format!("{path}/{name}"), "merge", binding).await;
        assert_eq!(code, 200, "{response}");
        volumes.push(volume);
        pods.push(uid(&api
            .create(&format!("{HOME}/pods"), pod(name, node))
            .await));
    }
    Names {
        nodes: nodes.try_into().unwrap(),
        pods: pods.try_into().unwrap(),
        volumes: volumes.try_into().unwrap(),
        claims: claims.try_into().unwrap(),
    }
}

fn token_request(kind: &str, name: &str, uid: &str) -> Value {
    json!({"spec": {"boundObjectRef":
        {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}})
}

/// A token of a node account, requested by the node `n1`.
async fn token(node: &Api, account: NodeAccount, uid: &str) -> String {
    let path = format!("{SYSTEM}/{}/token", account.name());
    let response = node.create(&path, token_request("Node", "n1", uid)).await;
    response["status"]["token"].as_str().unwrap().to_owned()
}

/// The user of a token; an error if the token is invalid.
async fn reviewed(api: &Api, token: &str) -> Result<UserInfo, String> {
    let review = json!({"spec": {"token": token}});
    let status = api.create(REVIEWS, review).await["status"].clone();
    if status["authenticated"] != true {
        return Err(status["error"].as_str().unwrap_or_default().to_owned());
    }
    let user = &status["user"];
    Ok(UserInfo {
        name: user["username"].as_str().unwrap().to_owned(),
        uid: user["uid"].as_str().unwrap_or_default().to_owned(),
        groups: json_tree::from_value(user["groups"].clone()).unwrap(),
        extra: json_tree::from_value(user["extra"].clone()).unwrap(),
    })
}

fn as_node(api: &Api) -> Api {
    api.as_user("system:node:n1", &["system:nodes", "system:authenticated"])
}

/// A request, and the credentials that allow it: `n` the node's certificate, `p`, `d` and `v` the tokens of the
/// proxy, the DNS server and the provisioner.
type Row = (&'static str, String, Value, &'static str);

fn reads(names: &Names) -> Vec<Row> {
    let [own_volume, their_volume] = &names.volumes;
    let core = |path: &str| format!("{HOME}/{path}");
    [
        (core("secrets/own"), "n"),
        (core("secrets/theirs"), ""),
        (core("secrets"), ""),
        ("/api/v1/secrets".to_owned(), ""),
        (core("configmaps/own"), "n"),
        (core("configmaps/theirs"), ""),
        (core("serviceaccounts/own"), "n"),
        (core("serviceaccounts/theirs"), ""),
        (core("pods/own"), "n"),
        (core("pods/theirs"), ""),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".to_owned(),
            "npd",
        ),
        // Network policies and DNS records need all pods; these pods contain no Secrets.
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".to_owned(),
            "pd",
        ),
        ("/api/v1/pods".to_owned(), "pd"),
        ("/api/v1/namespaces".to_owned(), "pd"),
        ("/api/v1/services".to_owned(), "npd"),
        ("/apis/discovery.k8s.io/v1/endpointslices".to_owned(), "pd"),
        ("/apis/networking.k8s.io/v1/networkpolicies".to_owned(), "p"),
        (format!("{NODES}/n1"), "np"),
        (format!("{NODES}/n2"), "p"),
        (NODES.to_owned(), "pv"),
        (format!("{NODES}/n2/proxy/pods"), ""),
        (format!("{LEASES}/n1"), "n"),
        (format!("{LEASES}/n2"), ""),
        (core("persistentvolumeclaims/own"), "nv"),
        (core("persistentvolumeclaims/theirs"), "v"),
        (core("persistentvolumeclaims"), "v"),
        (format!("{VOLUMES}/{own_volume}"), "nv"),
        (format!("{VOLUMES}/{their_volume}"), "v"),
        (VOLUMES.to_owned(), "v"),
        (CSRS.to_owned(), "n"),
        ("/apis/storage.k8s.io/v1/storageclasses".to_owned(), "v"),
        ("/apis/apps/v1/statefulsets".to_owned(), ""),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
            "",
        ),
    ]
    .map(|(path, who)| ("GET", path, Value::Null, who))
    .into()
}

fn nodes_and_leases() -> Vec<Row> {
    let named = |name: &str| json!({"metadata": {"name": name}});
    let labelled = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let (own_node, theirs) = (format!("{NODES}/n1"), format!("{NODES}/n2"));
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "own", "uid": "u"}]);
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    vec![
        ("POST", NODES.to_owned(), named("n1"), "n"),
        ("POST", NODES.to_owned(), named("n3"), ""),
        ("PATCH", own_node.clone(), labelled("example.com/a"), "n"),
        (
            "PATCH",
            own_node.clone(),
            labelled("node-restriction.kubernetes.io/a"),
            "",
        ),
        (
            "PATCH",
            own_node.clone(),
            labelled("node-role.kubernetes.io/control-plane"),
            "",
        ),
        (
            "PATCH",
            own_node.clone(),
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
            "",
        ),
        (
            "PATCH",
            own_node.clone(),
            json!({"metadata": {"ownerReferences": owner}}),
            "",
        ),
        ("PATCH", theirs.clone(), labelled("example.com/a"), ""),
        ("PATCH", format!("{own_node}/status"), ready.clone(), "n"),
        ("PATCH", format!("{theirs}/status"), ready, ""),
        ("DELETE", own_node, Value::Null, ""),
        ("DELETE", theirs, Value::Null, ""),
        ("POST", LEASES.to_owned(), named("n1"), "n"),
        ("POST", LEASES.to_owned(), named("n3"), ""),
        ("PATCH", format!("{LEASES}/n1"), labelled("a"), "n"),
        ("PATCH", format!("{LEASES}/n2"), labelled("a"), ""),
        ("DELETE", format!("{LEASES}/n2"), Value::Null, ""),
    ]
}

fn pods(names: &Names) -> Vec<Row> {
    let path = |rest: &str| format!("{HOME}/pods{rest}");
    let mirror = |node: usize, account: Value| {
        let name = ["n1", "n2"][node];
        json!({
            "metadata": {"name": format!("static-{name}"),
                "annotations": {"kubernetes.io/config.mirror": "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name,
                    "uid": names.nodes[node], "controller": true}]},
            "spec": {"nodeName": name, "serviceAccountName": account,
                "containers": [{"name": "c", "image": "i"}]},
        })
    };
    let running = json!({"status": {"phase": "Running"}});
    let eviction = |name: &str| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
            "deleteOptions": {"dryRun": ["All"]}})
    };
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    vec![
        ("POST", path(""), pod("own", "n1"), ""),
        ("POST", path(""), mirror(0, Value::Null), ""),
        ("POST", path(""), mirror(0, json!("theirs")), ""),
        ("POST", path(""), mirror(1, Value::Null), ""),
        ("DELETE", path("/own"), Value::Null, "n"),
        ("DELETE", path("/theirs"), Value::Null, ""),
        (
            "PATCH",
            path("/own"),
            json!({"metadata": {"labels": {"a": "b"}}}),
            "",
        ),
        ("PATCH", path("/own/status"), running.clone(), "n"),
        ("PATCH", path("/theirs/status"), running, ""),
        ("POST", path("/own/eviction"), eviction("own"), "n"),
        ("POST", path("/theirs/eviction"), eviction("theirs"), ""),
        ("POST", path("/own/binding"), binding, ""),
        ("POST", path("/own/exec?command=id"), Value::Null, ""),
    ]
}

fn credentials(names: &Names) -> Vec<Row> {
    let home = |account: &str| format!("{HOME}/serviceaccounts/{account}/token");
    let of_node = |uid: usize| token_request("Node", ["n1", "n2"][uid], &names.nodes[uid]);
    let of_pod = |pod: usize| token_request("Pod", ["own", "theirs"][pod], &names.pods[pod]);
    let node_client = "kubernetes.io/kube-apiserver-client-kubelet";
    let mut rows = vec![
        ("POST", home("own"), of_pod(0), "n"),
        ("POST", home("own"), json!({"spec": {}}), ""),
        ("POST", home("own"), of_node(0), ""),
        ("POST", home("theirs"), of_pod(1), ""),
        ("POST", format!("{SYSTEM}/default/token"), of_node(0), ""),
        (
            "POST",
            CSRS.to_owned(),
            request("system:node:n1", "system:nodes", node_client),
            "n",
        ),
        (
            "POST",
            CSRS.to_owned(),
            request("system:node:n2", "system:nodes", node_client),
            "",
        ),
        // The request is never approved, and a node cannot approve it.
        (
            "POST",
            CSRS.to_owned(),
            request("jane", "people", "kubernetes.io/kube-apiserver-client"),
            "n",
        ),
        (
            "POST",
            CSRS.to_owned(),
            request(
                "jane",
                "system:masters",
                "kubernetes.io/kube-apiserver-client",
            ),
            "",
        ),
        (
            "PATCH",
            format!("{CSRS}/waits/approval"),
            json!({"status": {}}),
            "",
        ),
        (
            "POST",
            REVIEWS.to_owned(),
            json!({"spec": {"token": "x"}}),
            "n",
        ),
        (
            "POST",
            format!("{HOME}/secrets"),
            json!({"metadata": {"name": "x"}}),
            "",
        ),
    ];
    for account in NodeAccount::ALL {
        let path = format!("{SYSTEM}/{}/token", account.name());
        let other_uid = token_request("Node", "n1", "other");
        rows.extend([
            ("POST", path.clone(), of_node(0), "n"),
            ("POST", path.clone(), of_node(1), ""),
            ("POST", path.clone(), other_uid, ""),
            ("POST", path, json!({"spec": {}}), ""),
        ]);
    }
    rows
}

fn volumes(names: &Names) -> Vec<Row> {
    let claims = format!("{HOME}/persistentvolumeclaims");
    let [own_volume, theirs] = names
        .volumes
        .each_ref()
        .map(|name| format!("{VOLUMES}/{name}"));
    let grown = json!({"spec": {"capacity": {"storage": "2Gi"}}});
    let mut of_any = volume(&names.claims[0], "n1");
    of_any["spec"]["claimRef"] = Value::Null;
    let elsewhere = json!({"metadata": {"annotations":
        {"volume.kubernetes.io/selected-node": null}}});
    let capacity = json!({"status": {"capacity": {"storage": "2Gi"}}});
    vec![
        (
            "POST",
            VOLUMES.to_owned(),
            volume(&names.claims[0], "n1"),
            "v",
        ),
        (
            "POST",
            VOLUMES.to_owned(),
            volume(&names.claims[0], "n2"),
            "",
        ),
        (
            "POST",
            VOLUMES.to_owned(),
            volume(&names.claims[1], "n1"),
            "",
        ),
        ("POST", VOLUMES.to_owned(), of_any, ""),
        ("PATCH", own_volume.clone(), grown.clone(), "v"),
        (
            "PATCH",
            own_volume.clone(),
            json!({"metadata": {"labels": {"a": "b"}}}),
            "",
        ),
        ("PATCH", theirs.clone(), grown, ""),
        ("DELETE", own_volume, Value::Null, "v"),
        ("DELETE", theirs, Value::Null, ""),
        ("PATCH", format!("{claims}/own-new"), elsewhere.clone(), "v"),
        ("PATCH", format!("{claims}/theirs-new"), elsewhere, ""),
        (
            "PATCH",
            format!("{claims}/own/status"),
            capacity.clone(),
            "nv",
        ),
        ("PATCH", format!("{claims}/theirs/status"), capacity, ""),
        ("DELETE", format!("{claims}/own"), Value::Null, ""),
    ]
}

/// findings S10
#[tokio::test]
async fn a_stolen_certificate_reaches_what_the_table_says() {
    let api = Api::new().await;
    let names = create_objects(&api).await;
    let mut waiting = request("jane", "people", "kubernetes.io/kube-apiserver-client");
    waiting["metadata"]["name"] = "waits".into();
    api.create(CSRS, waiting).await;
    let node = as_node(&api);
    let mut users = vec![('n', as_node(&api))];
    for (letter, account) in ['p', 'd', 'v'].into_iter().zip(NodeAccount::ALL) {
        let token = token(&node, account, &names.nodes[0]).await;
        let user = reviewed(&api, &token).await.unwrap();
        assert_eq!(user.name, account.user());
        let of = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")].clone();
        assert_eq!(of("node-name"), ["n1"]);
        assert_eq!(of("node-uid"), [names.nodes[0].clone()]);
        users.push((letter, api.as_user_info(user)));
    }
    let rows = [
        reads(&names),
        nodes_and_leases(),
        pods(&names),
        credentials(&names),
        volumes(&names),
    ];
    let mut wrong = Vec::new();
    for (method, path, body, who) in rows.into_iter().flatten() {
        let target = match method {
            "GET" => path.clone(),
            _ => format!(
                "{path}{}dryRun=All",
                if path.contains('?') { '&' } else { '?' }
            ),
        };
        let mut may = String::new();
        let mut responses = Vec::new();
        for (letter, user) in &users {
            let (code, response) = match method {
                "PATCH" => user.patch(&target, "merge", body.clone()).await,
                _ => user.send(method, &target, body.clone()).await,
            };
            match code {
                // An object with this name exists, so nothing else has refused the request.
                200 | 201 | 409 => may.push(*letter),
                403 => {}
                _ => responses.push(format!("{letter}: {code} {}", response["message"])),
            }
        }
        if may != who || !responses.is_empty() {
            wrong.push(format!(
                "{method} {path}: {may:?}, not {who:?} {responses:?} {body}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// findings-2 S35
#[tokio::test]
async fn a_member_of_the_group_that_is_no_node_has_no_right_of_nodes() {
    let api = Api::new().await;
    create_objects(&api).await;
    let groups = ["system:nodes", "system:authenticated"];
    for name in ["system:node:", "system:node:VM-3", "system:node", "own"] {
        let user = api.as_user(name, &groups);
        for path in [
            "/api/v1/secrets",
            &format!("{HOME}/secrets/own"),
            NODES,
            &format!("{NODES}/n1"),
            "/api/v1/services",
            CSRS,
        ] {
            let (code, response) = user.send("GET", path, Value::Null).await;
            assert_eq!(code, 403, "{name} {path}: {response}");
        }
        let object = json!({"metadata": {"name": "n3"}});
        assert_eq!(user.send("POST", NODES, object).await.0, 403, "{name}");
        // The user keeps the rights of its other groups.
        let (code, response) = user.send("GET", "/version", Value::Null).await;
        assert_eq!(code, 200, "{name}: {response}");
        let review = json!({"spec": {"namespace": "default"}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let rules = user.create(path, review).await["status"]["resourceRules"].to_string();
        assert!(!rules.contains("secrets"), "{name}: {rules}");
    }
}

/// KEP-4193
#[tokio::test]
async fn the_tokens_of_a_node_end_with_its_object() {
    let api = Api::new().await;
    let names = create_objects(&api).await;
    let node = as_node(&api);
    let mut tokens = Vec::new();
    for account in NodeAccount::ALL {
        tokens.push(token(&node, account, &names.nodes[0]).await);
    }
    let path = format!("{NODES}/n1");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    for again in [false, true] {
        if again {
            let object = json!({"metadata": {"name": "n1"}});
            node.create(NODES, object).await;
        }
        for token in &tokens {
            let refused = reviewed(&api, token).await.unwrap_err();
            assert!(
                refused.contains("the node that the token is bound to was deleted"),
                "{refused}"
            );
        }
    }
}
