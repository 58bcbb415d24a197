//! Annotations of mainstay: an unknown annotation is refused, for every kind and every method of writing.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, SETS, config_map, pod, stateful_set};

const ALLOWED: &str = "a StatefulSet may have: mainstay.dev/claim-updates (InPlace or NewOnly), \
    mainstay.dev/lost-volume (Recreate or Wait), \
    mainstay.dev/lost-volume-seconds (1 to 2147483647), mainstay.dev/max-unavailable (AsReleased or \
    Corrected), mainstay.dev/node-failure (Failover or Wait), \
    mainstay.dev/ordinal-node-port (1 to 65535), mainstay.dev/progress-deadline-seconds (1 to 2147483647), \
    mainstay.dev/scale-down (HighestFirst or WaitAMoment or WaitForLowest), mainstay.dev/stuck-rollout (Replace \
    or Wait)";

fn annotated(mut object: Value, annotations: Value) -> Value {
    object["metadata"]["annotations"] = annotations;
    object
}

fn without_times(mut status: Value) -> Value {
    status["metadata"] = json!({});
    status
}

#[tokio::test]
async fn a_set_with_wrong_ones_is_refused_with_all_causes() {
    let api = Api::new().await;
    let wrong = json!({"mainstay.dev/stuck-rolout": "Wait", "mainstay.dev/scale-down": "Lowest"});
    let (code, status) = api
        .send("POST", SETS, annotated(stateful_set("web"), wrong))
        .await;
    let (typo, value) = (
        format!("Invalid value: \"mainstay.dev/stuck-rolout\": no such annotation; {ALLOWED}"),
        "Unsupported value: \"Lowest\": supported values: \"HighestFirst\", \"WaitAMoment\", \"WaitForLowest\"",
    );
    let field = |name: &str| format!("metadata.annotations[mainstay.dev/{name}]");
    let (first, second) = (field("stuck-rolout"), field("scale-down"));
    assert_eq!(code, 422);
    assert_eq!(
        without_times(status),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("StatefulSet.apps \"web\" is invalid: [{second}: {value}, {first}: \
                {typo}]"),
            "reason": "Invalid",
            "details": {"name": "web", "group": "apps", "kind": "StatefulSet", "causes": [
                {"reason": "FieldValueNotSupported", "message": value, "field": second},
                {"reason": "FieldValueInvalid", "message": typo, "field": first}]},
            "code": 422})
    );
}

#[tokio::test]
async fn every_way_to_write_one_is_held_to_them() {
    let api = Api::new().await;
    api.with_account().await;
    let good = json!({"mainstay.dev/stuck-rollout": "Wait",
        "mainstay.dev/progress-deadline-seconds": "30"});
    api.create(SETS, annotated(stateful_set("web"), good)).await;
    api.create(PODS, pod("p")).await;
    api.create(CONFIG_MAPS, config_map("m")).await;
    let one = json!({"mainstay.dev/stuck-rollout": "Never"});
    let on_top = json!({"metadata": {"annotations": one.clone()}});
    for path in [
        format!("{SETS}/web"),
        format!("{SETS}/web/status"),
        format!("{PODS}/p"),
        format!("{PODS}/p/status"),
        format!("{CONFIG_MAPS}/m"),
        "/api/v1/namespaces/default".to_owned(),
    ] {
        let (code, status) = api.patch(&path, "merge", on_top.clone()).await;
        assert_eq!(code, 422, "{path}: {status}");
        let cause = &status["details"]["causes"][0];
        let field = "metadata.annotations[mainstay.dev/stuck-rollout]";
        assert_eq!(cause["field"], field, "{path}");
    }
    let in_template = json!({"spec": {"template": {"metadata": {"annotations": one}}}});
    let (code, status) = api
        .patch(&format!("{SETS}/web"), "merge", in_template)
        .await;
    assert_eq!(code, 422);
    assert_eq!(
        status["details"]["causes"][0],
        json!({"reason": "FieldValueInvalid",
            "field": "spec.template.metadata.annotations[mainstay.dev/stuck-rollout]",
            "message": "Invalid value: \"mainstay.dev/stuck-rollout\": it is for a StatefulSet; a \
                Pod may have none that begins with mainstay.dev/"})
    );
    let removal = json!({"metadata": {"annotations": {"mainstay.dev/stuck-rollout": null}}});
    assert_eq!(
        api.patch(&format!("{SETS}/web"), "merge", removal).await.0,
        200
    );
}
