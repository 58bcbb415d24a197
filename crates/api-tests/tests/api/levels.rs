//! The Pod Security levels in the labels of a namespace.

use json_tree::json;

use crate::harness::{Api, PODS, SETS, pod, stateful_set};

#[tokio::test]
async fn a_namespace_refuses_or_warns_of_pods_beyond_its_level() {
    let api = Api::new().await;
    api.with_account().await;
    let level = |mode: &str, level: &str| json!({"metadata": {"labels": {format!("pod-security.kubernetes.io/{mode}"): level}}});
    let namespace = "/api/v1/namespaces/default";
    let (code, refused) = api.patch(namespace, "merge", level("warn", "strict")).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("must be one of privileged")
    );
    assert_eq!(
        api.patch(namespace, "merge", level("warn", "restricted"))
            .await
            .0,
        200
    );
    let json_type = [("content-type", "application/json")];
    let created = api
        .raw("POST", PODS, &json_type, pod("a").to_string())
        .await;
    assert_eq!(created.code, 201);
    let warning = created.warnings().join("\n");
    assert!(
        warning.contains("would violate PodSecurity \\\"restricted:latest\\\": allowPrivilege"),
        "{warning}"
    );
    let set = api
        .raw("POST", SETS, &json_type, stateful_set("w").to_string())
        .await;
    assert_eq!(set.code, 201);
    assert!(
        set.warnings()
            .join("\n")
            .contains("would violate PodSecurity")
    );

    let headers = [("content-type", "application/merge-patch+json")];
    let stricter = level("enforce", "restricted").to_string();
    let changed = api.raw("PATCH", namespace, &headers, stricter).await;
    assert_eq!(changed.code, 200);
    let warning = changed.warnings().join("\n");
    assert!(
        warning.contains("existing pods in namespace \\\"default\\\" violate"),
        "{warning}"
    );
    assert!(
        warning.contains("a: allowPrivilegeEscalation != false"),
        "{warning}"
    );
    let (code, refused) = api.send("POST", PODS, pod("b")).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods \"b\" is forbidden: violates PodSecurity \"restricted:latest\": \
         allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
         \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
         container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")"
    );
    // An existing pod may still be changed, as long as its containers do not change.
    let note = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(api.patch(&format!("{PODS}/a"), "merge", note).await.0, 200);
}
