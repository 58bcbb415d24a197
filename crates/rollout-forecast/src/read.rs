//! The objects of a set as they are, and as they would be with the manifests.

use std::sync::Arc;

use cluster_inspection::Server;
use controller_planners::stateful_set::forecast::{ForecastError, Objects, forecast};
use controller_planners::stateful_set::{GroupMember, identity};
use jiff::Timestamp;
use json_tree::Value;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope};
use kube_api_client::{Api, Client, ListParams, Resource};
use manifest_apply::{Manifest, WriteMode, WrittenObject, kubectl_apply};
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::{StatefulSetPolicy, in_force};
use serde::de::DeserializeOwned;

use crate::error::PlanError;
use crate::report::{Compared, Report};
use crate::versions::Versions;

/// A set, and the manifests that would change it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    pub namespace: &'q str,
    /// The name of the set.
    pub name: &'q str,
    /// The manifests: of the set, of policies, and others, which are ignored.
    pub manifests: &'q [Manifest],
}

impl<'q> Question<'q> {
    /// The manifests of a kind in the namespace of the set.
    fn of_kind(&self, api_version: &str, kind: &str) -> impl Iterator<Item = &'q Manifest> {
        let namespace = self.namespace;
        self.manifests.iter().filter(move |manifest| {
            let object = &manifest.object;
            let its = object["metadata"]["namespace"].as_str();
            object["apiVersion"] == *api_version
                && object["kind"] == *kind
                && its.is_none_or(|its| its == namespace)
        })
    }

    fn of_set(&self) -> Option<&'q Manifest> {
        self.of_kind(<StatefulSet as k8s_openapi::Resource>::API_VERSION, SET)
            .find(|manifest| name_of(manifest) == self.name)
    }

    fn of_policies(&self) -> impl Iterator<Item = &'q Manifest> {
        self.of_kind(
            <StatefulSetPolicy as k8s_openapi::Resource>::API_VERSION,
            <StatefulSetPolicy as k8s_openapi::Resource>::KIND,
        )
    }

    /// The error for a set that the manifests do not have.
    fn no_manifest(&self) -> PlanError {
        let (namespace, name) = (self.namespace, self.name);
        let sets = self.of_kind(<StatefulSet as k8s_openapi::Resource>::API_VERSION, SET);
        let sets: Vec<&str> = sets.map(name_of).collect();
        PlanError::NoSuchSet(if self.manifests.is_empty() {
            format!("StatefulSet {namespace}/{name} does not exist, and no -f has its manifest")
        } else if sets.is_empty() {
            format!("the manifests have no StatefulSet of namespace {namespace}")
        } else {
            let sets = sets.join(", ");
            format!("the manifests have no StatefulSet {namespace}/{name}, but {sets}")
        })
    }
}

const SET: &str = "StatefulSet";

fn name_of(manifest: &Manifest) -> &str {
    manifest.object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
}

/// A manifest, and the object that it changes.
#[derive(Clone, Debug)]
struct Tried {
    /// The path of the kind's objects in the namespace.
    collection: String,
    manifest: Manifest,
    before: Option<Value>,
}

/// The answer, with the manifests that were tried.
#[derive(Debug)]
pub struct PlannedRollout {
    pub report: Report,
    pub versions: Versions,
    /// In the order in which they are to be stored: policies, then the set.
    tried: Vec<Tried>,
}

/// Reads the set, tries the manifests, and forecasts the rollout. Nothing is stored.
///
/// # Errors
/// The set exists neither in the cluster nor in a manifest; the server refuses a read or a manifest.
pub async fn look(
    server: &Server,
    question: Question<'_>,
    now: Timestamp,
) -> Result<PlannedRollout, PlanError> {
    let reader = Reader { server, question };
    let (mut tried, mut warnings) = (Vec::new(), Vec::new());
    let mut policies = reader.policies().await?;
    let policies_before = policies.clone();
    for manifest in question.of_policies() {
        let (one, written) = reader.try_out::<StatefulSetPolicy>(manifest).await?;
        let policy: StatefulSetPolicy = decode("StatefulSetPolicy", &written.object)?;
        policies.retain(|other| other.name() != policy.name());
        policies.push(policy);
        tried.push(one);
        warnings.extend(written.warnings);
    }
    let (before, after) = match question.of_set() {
        Some(manifest) => {
            let (one, written) = reader.try_out::<StatefulSet>(manifest).await?;
            let before = one.before.clone();
            tried.push(one);
            warnings.extend(written.warnings);
            (before, written.object)
        }
        None => {
            let live = reader.live::<StatefulSet>(question.name).await?;
            // A file may have policies alone.
            let is_asked = question.manifests.is_empty() || !tried.is_empty();
            let live = live.filter(|_| is_asked);
            let live = live.ok_or_else(|| question.no_manifest())?;
            (Some(live.clone()), live)
        }
    };
    let next: StatefulSet = decode(SET, &after)?;
    let labels = next.metadata.labels.clone();
    let chosen = |policies| in_force(question.name, labels.as_ref(), policies);
    let policy_before = chosen(&policies_before).cloned();
    let policy = chosen(&policies).cloned();
    let versions = Versions::of(before.as_ref(), policy_before.as_ref());
    let objects = reader
        .objects(next, policy.clone(), policies.clone())
        .await?;
    let forecast = forecast(objects.clone(), now)?;
    let report = Report::of(
        &Compared {
            namespace: question.namespace,
            name: question.name,
            before: before.as_ref(),
            after: &after,
            objects: &objects,
            policy: policy.as_ref().map(StatefulSetPolicy::name),
            versions: &versions,
        },
        &forecast,
        warnings,
    );
    Ok(PlannedRollout {
        report,
        versions,
        tried,
    })
}

/// Stores the manifests if nothing has changed since the plan of these versions. Returns the warnings of the server.
///
/// # Errors
/// The set or its policy has changed; the server refuses a manifest.
pub async fn apply(
    server: &Server,
    seen: &PlannedRollout,
    planned: &Versions,
) -> Result<Vec<String>, PlanError> {
    if let Some(difference) = seen.versions.difference(planned) {
        return Err(PlanError::Changed(difference));
    }
    let mut warnings = Vec::new();
    for tried in &seen.tried {
        // A policy that another user changes between the comparison and the write of the set has the effect that it would
        // have after this write.
        let written = write(&server.client, tried, WriteMode::Store).await?;
        warnings.extend(written.warnings);
    }
    Ok(warnings)
}

async fn write(
    client: &Client,
    tried: &Tried,
    mode: WriteMode,
) -> Result<WrittenObject, PlanError> {
    let (collection, before) = (&tried.collection, tried.before.as_ref());
    let written = kubectl_apply(client, collection, &tried.manifest, before, mode).await;
    Ok(written?)
}

fn decode<K: DeserializeOwned>(kind: &'static str, object: &Value) -> Result<K, PlanError> {
    let decoded = json_tree::from_value(object.clone());
    decoded.map_err(|source| PlanError::Malformed { kind, source })
}

struct Reader<'q> {
    server: &'q Server,
    question: Question<'q>,
}

impl Reader<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.server.client.clone(), self.question.namespace)
    }

    /// The object with that name, with all fields.
    async fn live<K>(&self, name: &str) -> Result<Option<Value>, PlanError>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        let path = format!("{}/{name}", api.resource_url());
        match self.server.client.get(&path).await {
            Err(error) if error.code() == Some(404) => Ok(None),
            other => Ok(Some(other.map_err(|error| self.server.explain(error))?)),
        }
    }

    async fn try_out<K>(&self, manifest: &Manifest) -> Result<(Tried, WrittenObject), PlanError>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let tried = Tried {
            collection: self.api::<K>().resource_url().to_owned(),
            manifest: manifest.clone(),
            before: self.live::<K>(name_of(manifest)).await?,
        };
        let written = write(&self.server.client, &tried, WriteMode::DryRun).await?;
        Ok((tried, written))
    }

    async fn list<K>(&self) -> kube_api_client::Result<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned,
        K::DynamicType: Default,
    {
        Ok(self.api::<K>().list(&ListParams::default()).await?.items)
    }

    /// The policies of the namespace; none if the server does not serve the kind.
    async fn policies(&self) -> Result<Vec<StatefulSetPolicy>, PlanError> {
        match self.list().await {
            Err(error) if error.code() == Some(404) => Ok(Vec::new()),
            other => Ok(other.map_err(|error| self.server.explain(error))?),
        }
    }

    /// The set with its pods, claims and revisions.
    async fn objects(
        &self,
        set: StatefulSet,
        policy: Option<StatefulSetPolicy>,
        policies: Vec<StatefulSetPolicy>,
    ) -> Result<Objects, PlanError> {
        let lists = tokio::try_join!(
            self.list::<Pod>(),
            self.list::<PersistentVolumeClaim>(),
            self.list::<ControllerRevision>(),
        );
        let lists = lists.map_err(|error| self.server.explain(error))?;
        let (pods, claims, revisions) = lists;
        let (name, uid) = (self.question.name, set.metadata.uid.clone());
        let is_owned = |meta: &ObjectMeta| {
            let mut owners = meta.owner_references.iter().flatten();
            owners.any(|owner| Some(&owner.uid) == uid.as_ref())
        };
        let is_pod = |pod: &str| identity::ordinal(name, pod).is_some();
        let is_claim = |claim: &str| {
            let mut dashes = claim.match_indices('-');
            dashes.any(|(at, _)| identity::ordinal(name, &claim[at + 1..]).is_some())
        };
        let prefix = format!("{name}-");
        let group = self.group(policy.as_ref(), policies, &pods).await?;
        let mut objects = Objects::of(set, policy.map(Arc::new));
        objects.group = group;
        objects.pods = named(pods, |meta, pod| is_owned(meta) || is_pod(pod));
        objects.claims = named(claims, |_, claim| is_claim(claim));
        objects.revisions = named(revisions, |meta, revision| {
            is_owned(meta) || revision.starts_with(&prefix)
        });
        Ok(objects)
    }

    /// The other sets of the group of a policy, with their pods.
    async fn group(
        &self,
        policy: Option<&StatefulSetPolicy>,
        policies: Vec<StatefulSetPolicy>,
        pods: &[Pod],
    ) -> Result<Vec<GroupMember>, PlanError> {
        if policy.is_none_or(|policy| policy.group().is_none()) {
            return Ok(Vec::new());
        }
        let sets = self.list::<StatefulSet>().await;
        let sets = sets.map_err(|error| self.server.explain(error))?;
        let pods = pods.iter().map(|pod| PodView::try_from(pod).map(Arc::new));
        let pods = pods.collect::<Result<Vec<_>, _>>();
        let pods = pods.map_err(ForecastError::from)?;
        let policies: Vec<_> = policies.into_iter().map(Arc::new).collect();
        Ok(GroupMember::others(
            self.question.name,
            policy,
            || sets.into_iter().map(Arc::new).collect(),
            &policies,
            |_| pods.clone(),
        ))
    }
}

/// The selected objects by name.
fn named<K, C>(objects: Vec<K>, is_selected: impl Fn(&ObjectMeta, &str) -> bool) -> C
where
    K: Metadata<Ty = ObjectMeta>,
    C: FromIterator<(String, K)>,
{
    let named = objects.into_iter().filter_map(|object| {
        let name = object.metadata().name.clone()?;
        is_selected(object.metadata(), &name).then_some((name, object))
    });
    named.collect()
}
