//! Pods that claim devices: from the template to the node, and back.

use json_tree::{Value, json};
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, PostParams};

use super::{Cluster, eventually, typed};

impl Cluster {
    fn device_claims(&self) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// A class and a template for one device, and a device on `n2`.
    async fn offer_devices(&self) {
        let params = PostParams::default();
        let class: DeviceClass = typed(json!({"metadata": {"name": "gpu"}, "spec": {
            "selectors": [{"cel": {"expression": "device.driver == 'dra.example.com'"}}]}}));
        let classes: Api<DeviceClass> = Api::all(self.client.clone());
        classes.create(&params, &class).await.unwrap();
        let template: ResourceClaimTemplate = typed(json!({"metadata": {"name": "one"},
            "spec": {"spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}}));
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(self.client.clone(), "default");
        templates.create(&params, &template).await.unwrap();
        let slice: ResourceSlice = typed(json!({"metadata": {"name": "s"}, "spec": {
            "driver": "dra.example.com", "nodeName": "n2",
            "pool": {"name": "n2", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0"}]}}));
        let slices: Api<ResourceSlice> = Api::all(self.client.clone());
        slices.create(&params, &slice).await.unwrap();
    }

    async fn node_of(&self, pod: &str) -> Option<String> {
        let pod = self.pods().get(pod).await.unwrap();
        pod.spec.unwrap().node_name
    }
}

fn claiming() -> Value {
    json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}]})
}

/// findings C49: the second pod gets the device when the first is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_device_and_gives_it_back() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster.offer_devices().await;
    cluster.create_pod("a", claiming()).await;
    eventually(Some("n2".to_owned()), || cluster.node_of("a")).await;
    let pod = cluster.pods().get("a").await.unwrap();
    let statuses = pod.status.unwrap().resource_claim_statuses.unwrap();
    let name = statuses[0].resource_claim_name.clone().unwrap();
    let claim = json!(cluster.device_claims().get(&name).await.unwrap());
    let result = &claim["status"]["allocation"]["devices"]["results"][0];
    assert_eq!(
        (&result["device"], &result["pool"]),
        (&json!("gpu-0"), &json!("n2"))
    );
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "a");
    assert_eq!(
        claim["metadata"]["finalizers"],
        json!(["resource.kubernetes.io/delete-protection"])
    );

    cluster.create_pod("b", claiming()).await;
    let why = || async {
        let pod = cluster.pods().get("b").await.unwrap();
        let conditions = pod.status.unwrap().conditions.unwrap_or_default();
        let messages = conditions.into_iter().filter_map(|one| one.message);
        messages
            .into_iter()
            .any(|message| message.contains("2 cannot allocate all claims"))
    };
    eventually(true, why).await;
    let over = json!({"status": {"phase": "Succeeded"}});
    cluster
        .pods()
        .patch_status("a", &PatchParams::default(), &Patch::Merge(over))
        .await
        .unwrap();
    eventually(Some("n2".to_owned()), || cluster.node_of("b")).await;
    let first = || async {
        let remaining_claim = cluster.device_claims().get_opt(&name).await.unwrap();
        remaining_claim.is_some()
    };
    eventually(false, first).await;
}

/// findings C49: a claim that several pods share keeps its device until the last has ended.
#[tokio::test(flavor = "multi_thread")]
async fn pods_share_a_claim() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster.offer_devices().await;
    let claim: ResourceClaim = typed(json!({"metadata": {"name": "shared"}, "spec": {"devices": {
        "requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}));
    let params = PostParams::default();
    cluster
        .device_claims()
        .create(&params, &claim)
        .await
        .unwrap();
    let sharing = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]});
    for name in ["a", "b"] {
        cluster.create_pod(name, sharing.clone()).await;
    }
    for name in ["a", "b"] {
        eventually(Some("n2".to_owned()), || cluster.node_of(name)).await;
    }
    let users = || async {
        let claim = json!(cluster.device_claims().get("shared").await.unwrap());
        let users = claim["status"]["reservedFor"]
            .as_array()
            .map_or(0, Vec::len);
        (users, claim["status"]["allocation"].is_object())
    };
    eventually((2, true), users).await;
    for (name, left) in [("a", (1, true)), ("b", (0, false))] {
        let now = DeleteParams::default().grace_period(0);
        cluster.pods().delete(name, &now).await.unwrap();
        eventually(left, users).await;
    }
}
