//! A user who changes sets, pods and claims at random.

use std::collections::BTreeMap;

use controller_planners::stateful_set::identity;
use json_tree::{Value, json};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube_api_client::{
    Api, Client, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
    PropagationPolicy, Resource, ResourceExt,
};
use resource_kinds::annotations::NODE_FAILURE;

use crate::checks::Checks;
use crate::random::{below, between, chance, one_of};
use crate::trace;

/// The namespace of all objects.
pub const NAMESPACE: &str = "default";
/// The names of the sets.
pub const SETS: [&str; 2] = ["web", "db"];
const GOOD_IMAGES: [&str; 3] = ["v1", "v2", "v3"];
/// An image that cannot be pulled, and an image whose containers never become ready.
const BROKEN_IMAGES: [&str; 2] = ["bad", "sick"];

pub struct User {
    client: Client,
    checks: Checks,
    /// The sets whose pods fail over.
    failing_over: &'static [&'static str],
    /// Whether no action of the user depends on wall clocks.
    is_timeless: bool,
}

impl User {
    /// A user with a reliable client. Pods of the sets in `failing_over` fail over.
    pub fn new(client: Client, checks: Checks, failing_over: &'static [&'static str]) -> Self {
        Self {
            client,
            checks,
            failing_over,
            is_timeless: false,
        }
    }

    /// The user without `minReadySeconds`, because that field compares the wall clocks of nodes and controllers.
    pub fn timeless(self) -> Self {
        Self {
            is_timeless: true,
            ..self
        }
    }

    /// Deletes the Node object of a machine, in any state.
    pub async fn delete_node(&self, name: &str) {
        trace!("user: delete node {name}");
        let nodes: Api<Node> = Api::all(self.client.clone());
        let deleted = nodes.delete(name, &DeleteParams::default()).await;
        if let Err(error) = deleted {
            trace!("user: refused: {error}");
        }
    }

    /// The machines without a ready Node object.
    pub async fn missing_nodes(&self, names: &[String]) -> kube_api_client::Result<Vec<String>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await?.items;
        let is_ready = |name: &String| {
            let mut namesakes = nodes.iter().filter(|node| node.name_any() == *name);
            namesakes.any(|node| {
                let status = node.status.iter();
                let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
                conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
            })
        };
        let missing = names.iter().filter(|name| !is_ready(name));
        Ok(missing
            .map(|name| format!("node {name} is not ready"))
            .collect())
    }

    /// The API of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Executes one random action.
    pub async fn act(&self) {
        let name = one_of(&SETS);
        let sets: Api<StatefulSet> = self.api();
        let result = match sets.get_opt(name).await {
            Ok(None) => self.create(name).await,
            Ok(Some(set)) if set.metadata.deletion_timestamp.is_some() => Ok(()),
            Ok(Some(set)) => self.change(name, &set).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            trace!("user: refused: {error}");
        }
    }

    async fn change(&self, name: &str, set: &StatefulSet) -> kube_api_client::Result<()> {
        let spec = match below(100) {
            0..20 => json!({"replicas": between(0, 4)}),
            20..40 => template(one_of(&GOOD_IMAGES)),
            40..50 => template(one_of(&BROKEN_IMAGES)),
            50..58 if !is_on_delete(set) => json!({"updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"partition": between(0, 3)}}}),
            58..62 => json!({"persistentVolumeClaimRetentionPolicy": retention()}),
            62..65 if !self.is_timeless => json!({"minReadySeconds": between(0, 5)}),
            62..69 => json!({"ordinals": {"start": between(0, 2)}}),
            69..81 => return self.delete_one::<Pod>(name).await,
            81..86 => return self.delete_one::<PersistentVolumeClaim>(name).await,
            86..92 => return self.relabel(name).await,
            _ => return self.delete_set(name, set).await,
        };
        self.patch(set, &spec).await
    }

    /// Creates the missing sets, and scales up the sets without replicas.
    pub async fn ensure_pods(&self) -> kube_api_client::Result<()> {
        let sets: Api<StatefulSet> = self.api();
        for name in SETS {
            match sets.get_opt(name).await? {
                None => self.create(name).await?,
                Some(set) => {
                    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
                    if replicas == Some(0) {
                        self.patch(&set, &json!({"replicas": between(1, 4)}))
                            .await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn create(&self, name: &str) -> kube_api_client::Result<()> {
        let mut spec = json!({
            "replicas": between(1, 4),
            "serviceName": name,
            "podManagementPolicy": one_of(&["OrderedReady", "OrderedReady", "Parallel"]),
            "selector": {"matchLabels": {"app": name}},
            "persistentVolumeClaimRetentionPolicy": retention(),
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": between(0, 10),
                    "containers": [{"name": "c", "image": one_of(&GOOD_IMAGES)}],
                },
            },
        });
        if chance(50) {
            spec["volumeClaimTemplates"] = json!([{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}},
            }]);
        }
        if chance(15) {
            spec["updateStrategy"] = json!({"type": "OnDelete"});
        } else if chance(30) {
            let rolling = json!({"partition": between(0, 3)});
            spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
        }
        if chance(20) {
            spec["ordinals"] = json!({"start": between(1, 3)});
        }
        if chance(20) && !self.is_timeless {
            spec["minReadySeconds"] = json!(between(1, 5));
        }
        let mut set = json!({"metadata": {"name": name}, "spec": spec});
        if self.failing_over.contains(&name) {
            set["metadata"]["annotations"] = json!({ NODE_FAILURE: "Failover" });
        }
        trace!("user: create {set}");
        let set: StatefulSet = json_tree::from_value(set).map_err(kube_api_client::Error::Json)?;
        let sets: Api<StatefulSet> = self.api();
        sets.create(&PostParams::default(), &set).await.map(drop)
    }

    async fn delete_set(&self, name: &str, set: &StatefulSet) -> kube_api_client::Result<()> {
        let policy = one_of(
            &[
                PropagationPolicy::Background,
                PropagationPolicy::Foreground,
                PropagationPolicy::Orphan,
            ]
            .each_ref(),
        )
        .clone();
        trace!("user: delete {name} {policy:?}");
        self.delete::<StatefulSet>(set, Some(policy)).await
    }

    /// Deletes a pod, or a claim, of the set.
    async fn delete_one<K>(&self, set: &str) -> kube_api_client::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + controller_framework::Object,
    {
        let mut all = self.api::<K>().list(&ListParams::default()).await?.items;
        all.retain(|object| {
            let name = object.name_any();
            let stem = name.rsplit_once('-').map_or("", |(stem, _)| stem);
            stem == set || stem.ends_with(&format!("-{set}"))
        });
        if all.is_empty() {
            return Ok(());
        }
        let chosen = all.swap_remove(below(all.len() as u64) as usize);
        trace!("user: delete {} by hand", chosen.name_any());
        self.delete(&chosen, None).await
    }

    async fn delete<K>(
        &self,
        object: &K,
        propagation_policy: Option<PropagationPolicy>,
    ) -> kube_api_client::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + controller_framework::Object,
    {
        self.checks
            .record_user_deletion(&object.uid().unwrap_or_default());
        let params = DeleteParams {
            propagation_policy,
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deleted = self.api::<K>().delete(&object.name_any(), &params).await;
        deleted.map(drop)
    }

    /// Changes a pod's label, so that its set has to release the pod.
    async fn relabel(&self, set: &str) -> kube_api_client::Result<()> {
        let pods: Api<Pod> = self.api();
        let selected = ListParams::default().labels(&format!("app={set}"));
        let all = pods.list(&selected).await?.items;
        if all.is_empty() {
            return Ok(());
        }
        let name = all[below(all.len() as u64) as usize].name_any();
        trace!("user: relabel {name}");
        let patch = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
        pods.patch(&name, &PatchParams::default(), &patch)
            .await
            .map(drop)
    }

    /// Repairs broken templates in most cases.
    pub async fn repair(&self) -> kube_api_client::Result<()> {
        let sets: Api<StatefulSet> = self.api();
        for set in sets.list(&ListParams::default()).await? {
            if is_broken(&set) && chance(80) {
                self.patch(&set, &template(one_of(&GOOD_IMAGES))).await?;
            }
        }
        Ok(())
    }

    async fn patch(&self, set: &StatefulSet, spec: &Value) -> kube_api_client::Result<()> {
        let name = set.name_any();
        trace!("user: {name} {spec}");
        let patch = Patch::Strategic(json!({ "spec": spec }));
        let sets: Api<StatefulSet> = self.api();
        sets.patch(&name, &PatchParams::default(), &patch)
            .await
            .map(drop)
    }

    /// The manual actions at the end: deletes released pods, and broken pods that no update may replace.
    pub async fn clean_up(&self) -> kube_api_client::Result<()> {
        let sets: Api<StatefulSet> = self.api();
        let sets = sets.list(&ListParams::default()).await?.items;
        let pods: Api<Pod> = self.api();
        for pod in pods.list(&ListParams::default()).await? {
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let released = pod.labels().get("app").is_some_and(|app| app == "other");
            let set = sets.iter().find(|set| owns(set, &pod));
            let stuck = set.filter(|set| !is_broken(set) && has_broken_image(&pod));
            match stuck {
                Some(set) if !is_on_delete(set) && is_below_partition(set, &pod) => {
                    let strategy = json!({"updateStrategy": {"rollingUpdate": null}});
                    self.patch(set, &strategy).await?;
                }
                Some(set) if !is_on_delete(set) => {}
                _ if released || stuck.is_some() => {
                    trace!("user: tidy up {}", pod.name_any());
                    self.delete(&pod, None).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn owns(set: &StatefulSet, pod: &Pod) -> bool {
    let mut owners = pod.owner_references().iter();
    owners.any(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
}

fn has_broken_image(pod: &Pod) -> bool {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let image = container.and_then(|container| container.image.as_deref());
    image.is_some_and(|image| BROKEN_IMAGES.contains(&image))
}

fn is_below_partition(set: &StatefulSet, pod: &Pod) -> bool {
    let spec = set.spec.as_ref();
    let partition = spec.and_then(|spec| {
        spec.update_strategy
            .as_ref()?
            .rolling_update
            .as_ref()?
            .partition
    });
    let start = spec.and_then(|spec| spec.ordinals.as_ref()?.start);
    let first = i64::from(partition.unwrap_or_default()) + i64::from(start.unwrap_or_default());
    let ordinal = identity::ordinal(&set.name_any(), &pod.name_any());
    ordinal.is_some_and(|ordinal| ordinal < first)
}

/// Whether the template of the set can never be healthy.
pub fn is_broken(set: &StatefulSet) -> bool {
    BROKEN_IMAGES.contains(&image_of(set).as_str())
}

fn image_of(set: &StatefulSet) -> String {
    let spec = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let image = spec.and_then(|spec| spec.containers.first()?.image.clone());
    image.unwrap_or_default()
}

fn is_on_delete(set: &StatefulSet) -> bool {
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"))
}

fn template(image: &str) -> Value {
    json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}})
}

fn retention() -> Value {
    let mut policy = BTreeMap::new();
    for field in ["whenDeleted", "whenScaled"] {
        policy.insert(field, one_of(&["Retain", "Retain", "Delete"]));
    }
    json!(policy)
}
