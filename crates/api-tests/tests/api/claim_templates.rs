//! Edits of the claim templates of a StatefulSet (rollouts.md C).

use json_tree::{Value, json};
use kube_api_server::Config;
use mvcc_store::embedded::EmbeddedStore;
use resource_kinds::stateful_set_policy;

use crate::harness::{Api, SETS, stateful_set};

const POLICIES: &str = "/apis/apps.mainstay.dev/v1alpha1/namespaces/default/statefulsetpolicies";
const DB: &str = "/apis/apps/v1/namespaces/default/statefulsets/db";
const REMOVED: &str = "apps.mainstay.dev/removed-claim-templates";

fn templates(names: &[&str]) -> Value {
    let templates = names.iter().map(|name| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    });
    templates.collect()
}

fn set(updates: Option<&str>, names: &[&str]) -> Value {
    let mut set = stateful_set("db");
    set["spec"]["volumeClaimTemplates"] = templates(names);
    let mounts = names
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mounts.collect();
    if let Some(updates) = updates {
        set["metadata"]["annotations"] = json!({"mainstay.dev/claim-updates": updates});
    }
    set
}

fn names(set: &Value) -> Vec<&str> {
    let templates = set["spec"]["volumeClaimTemplates"].as_array().unwrap();
    let names = templates
        .iter()
        .map(|template| template["metadata"]["name"].as_str());
    names.flatten().collect()
}

/// rollouts.md C1, C2: an edit is accepted while a policy or the annotation permits it, and not before or after.
#[tokio::test]
async fn an_edit_is_accepted_while_it_is_permitted() {
    let api = Api::with_policies().await;
    api.create(SETS, set(None, &["data"])).await;
    let edit = |names: &[&str]| {
        let mounts: Value = names
            .iter()
            .map(|name| json!({"name": name, "mountPath": format!("/{name}")}))
            .collect();
        let containers = json!([{"name": "c", "image": "i", "volumeMounts": mounts}]);
        json!({"spec": {"volumeClaimTemplates": templates(names),
            "template": {"spec": {"containers": containers}}}})
    };
    let refused = async |names: &[&str]| {
        let (code, status) = api.patch(DB, "merge", edit(names)).await;
        assert_eq!(
            (code, status["reason"].as_str()),
            (422, Some("Invalid")),
            "{status}"
        );
        let text = status["message"].as_str().unwrap();
        assert!(
            text.contains("updates to statefulset spec for fields other than"),
            "{text}"
        );
    };
    refused(&["data", "log"]).await;
    let policy = json!({
        "apiVersion": "apps.mainstay.dev/v1alpha1", "kind": "StatefulSetPolicy",
        "metadata": {"name": "all"},
        "spec": {"selector": {}, "claims": {"update": "InPlace"}},
    });
    let policy = api.create(POLICIES, policy).await;
    assert_eq!(
        policy["spec"]["claims"],
        json!({"update": "InPlace", "parallel": 1, "failures": 1})
    );
    let (code, both) = api.patch(DB, "merge", edit(&["data", "log"])).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(names(&both), ["data", "log"]);
    // A dry run says the same and changes nothing.
    let dry = format!("{DB}?dryRun=All");
    let (code, _) = api.patch(&dry, "merge", edit(&["data"])).await;
    assert_eq!((code, names(&api.get(DB).await.1).len()), (200, 2));
    assert_eq!(
        api.send("DELETE", &format!("{POLICIES}/all"), Value::Null)
            .await
            .0,
        200
    );
    refused(&["data"]).await;
    let annotated = json!({"metadata": {"annotations": {"mainstay.dev/claim-updates": "NewOnly"}}});
    let mut both = edit(&["data"]);
    both["metadata"] = annotated["metadata"].clone();
    let (code, one) = api.patch(DB, "merge", both).await;
    assert_eq!(code, 200, "{one}");
    assert_eq!(names(&one), ["data"]);
    let wrong = json!({"metadata": {"annotations": {"mainstay.dev/claim-updates": "Always"}}});
    assert_eq!(api.patch(DB, "merge", wrong).await.0, 422);
}

/// rollouts.md C7: the record of a removed template belongs to no apply configuration, so the next apply keeps it, and an
/// undo gets the template back.
#[tokio::test]
async fn a_removed_template_survives_server_side_apply() {
    let api = Api::new().await;
    let path = format!("{DB}?fieldManager=helm&force=true");
    let apply = async |body: Value| {
        let (code, set) = api.patch(&path, "apply", body).await;
        assert!(matches!(code, 200 | 201), "{set}");
        set
    };
    apply(set(Some("InPlace"), &["data", "log"])).await;
    let removed = apply(set(Some("InPlace"), &["data"])).await;
    let record = removed["metadata"]["annotations"][REMOVED].clone();
    assert!(record.as_str().unwrap().contains("\"log\""), "{record}");
    let mut labelled = set(Some("InPlace"), &["data"]);
    labelled["metadata"]["labels"] = json!({"chart": "3"});
    let again = apply(labelled).await;
    assert_eq!(again["metadata"]["annotations"][REMOVED], record);
    let template = set(None, &["data", "log"])["spec"]["template"].clone();
    let undo = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let (code, undone) = api.patch(DB, "json", undo).await;
    assert_eq!(code, 200, "{undone}");
    assert_eq!(names(&undone), ["data", "log"]);
    assert_eq!(undone["metadata"]["annotations"][REMOVED], record);
    // The same configuration, without the template, can be applied again: its pod template mounts the volume.
    let mut mounting = set(Some("InPlace"), &["data"]);
    mounting["spec"]["template"] = undone["spec"]["template"].clone();
    assert_eq!(names(&apply(mounting).await), ["data", "log"]);
}

/// A cluster of an earlier version gets the fields of this version when a server starts.
#[tokio::test]
async fn the_schema_of_an_own_kind_is_renewed_at_a_start() {
    let store = EmbeddedStore::in_memory();
    let start = async |definitions: Vec<Value>| {
        let mut config = Config::in_process(store.clone());
        config.default_objects.extend(definitions);
        Api::configured(store.clone(), config).await
    };
    let mut old = stateful_set_policy::definitions();
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let claims = old[0]
        .pointer_mut(properties)
        .and_then(Value::as_object_mut)
        .unwrap()
        .remove("claims");
    old[0]["metadata"]["annotations"] = json!({});
    let older = old.clone();
    let api = start(old).await;
    let path = format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
        stateful_set_policy::DEFINITION
    );
    let label = json!({"metadata": {"labels": {"mine": "yes"}}});
    assert_eq!(api.patch(&path, "merge", label).await.0, 200);
    drop(api);
    let api = start(stateful_set_policy::definitions()).await;
    let (_, renewed) = api.get(&path).await;
    assert_eq!(
        renewed.pointer(&format!("{properties}/claims")),
        claims.as_ref()
    );
    assert_eq!(renewed["metadata"]["labels"]["mine"], "yes");
    let version = renewed["metadata"]["resourceVersion"].clone();
    drop(api);
    let api = start(stateful_set_policy::definitions()).await;
    assert_eq!(
        api.get(&path).await.1["metadata"]["resourceVersion"],
        version,
        "no further write"
    );
    drop(api);
    let api = start(older).await;
    assert_eq!(
        api.get(&path).await.1["metadata"]["resourceVersion"],
        version,
        "an earlier version of the program leaves the schema"
    );
}
