//! Executes a plan: every write names its object and the observed state; events report the results.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_framework::{Cache, EventType, Recorder, object_key, reference};
use controller_planners::batching::window_of;
use controller_planners::stateful_set::write_schedule::{
    Write, WriteOutcome, WritePosition, WriteSchedule,
};
use controller_planners::stateful_set::{
    ActionKind, ClaimEdit, Refused, SetEvent, StatefulSetAction, StatefulSetPlan, identity,
};
use futures::stream::{FuturesUnordered, StreamExt};
use json_tree::{Map, Value, json};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_api_client::guarded_writes::{self, Delete, WriteRefusal, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Resource};
use object_model::{IncompleteMetadata, ObjectKey, ResourceVersion, Uid};
use process_telemetry::polls::spend;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{PURPOSE, REJECTED, ROLLOUT_STEP};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::stateful_set as reasons;

use super::policies::PoliciesUnread;
use super::recent_writes::RecentWrites;
use crate::api_error::{ApiError, failed};
use crate::pacing::Pacing;
use crate::recent_pod_writes::{PodWrite, RecentPodWrites, VISIBLE_WITHIN};

/// The reason why a plan was not executed; the set is planned again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API refused a write, or could not be reached.
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Policies(#[from] PoliciesUnread),
    /// The planned object no longer exists.
    #[error("the set has been replaced or is being deleted")]
    SetChanged,
    #[error("identity of an object")]
    Identity(#[from] IncompleteMetadata),
}

#[derive(Clone)]
pub(super) struct Executor {
    pub client: Client,
    /// The cache from which the next plan is computed.
    pub cache: Cache<PodView>,
    pub revisions: Cache<ControllerRevision>,
    pub recorder: Recorder,
    pub refusals: Arc<Refusals>,
    pub statuses: Arc<RecentWrites>,
    pub pacing: Arc<Pacing>,
}

/// The time between two attempts of a refused edit of a claim: a refusal usually lasts until somebody changes a quota, a
/// class or the template, and only the last is an event for the set.
const REFUSED_EDIT_RETRY: Duration = Duration::from_mins(1);

/// Maximum number of remembered refusals of a set.
const REFUSALS_MAX: usize = 10;

/// The API server's refusals of each set's last plan.
#[derive(Default)]
pub(super) struct Refusals(Mutex<BTreeMap<ObjectKey, Vec<Refused>>>);

impl Refusals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Vec<Refused>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(&self, key: &ObjectKey) -> Vec<Refused> {
        self.all().get(key).cloned().unwrap_or_default()
    }

    /// The time after which a refused edit of a claim is tried again without another change.
    pub fn retry_of(&self, key: &ObjectKey) -> Option<Duration> {
        let all = self.all();
        let mut refused = all.get(key)?.iter();
        let is_edit = |refused: &Refused| refused.action.kind == ActionKind::EditClaim;
        refused.any(is_edit).then_some(REFUSED_EDIT_RETRY)
    }

    pub fn replace(&self, key: &ObjectKey, refused: Vec<Refused>) {
        if refused.is_empty() {
            self.all().remove(key);
        } else {
            self.all().insert(key.clone(), refused);
        }
    }
}

/// The patch of a claim that was read at that version.
fn annotation_patch(uid: &Uid, key: &str, text: String) -> Patch<Value> {
    Patch::Merge(json!({ "metadata": { "uid": uid, "annotations": { key: text } } }))
}

fn claim_patch(uid: &Uid, version: ResourceVersion, edit: &ClaimEdit) -> Patch<Value> {
    let mut patch = json!({"metadata": {"uid": uid, "resourceVersion": version}});
    match edit {
        ClaimEdit::Metadata(edit) => {
            patch["metadata"]["labels"] = json!(edit.labels);
            patch["metadata"]["annotations"] = json!(edit.annotations);
        }
        ClaimEdit::Volume(edit) => {
            let mut spec = Map::new();
            if let Some(size) = &edit.storage {
                let resources = json!({"requests": {"storage": size}});
                spec.insert("resources".to_owned(), resources);
            }
            if let Some(class) = &edit.attributes_class {
                spec.insert("volumeAttributesClassName".to_owned(), json!(class));
            }
            patch["spec"] = Value::Object(spec);
        }
    }
    Patch::Merge(patch)
}

/// The refusal, if the API server refused the write and a retry with a fresh snapshot does not help.
fn refused(write: Option<Write<'_>>, error: &Error) -> Option<Refused> {
    let (Some(Write::Action(action)), Error::Api(ApiError { source, .. })) = (write, error) else {
        return None;
    };
    let is_final =
        matches!(source, kube_api_client::Error::Api(_)) && !refusal(source).is_of_old_view();
    is_final.then(|| Refused {
        action: action.target(),
        message: guarded_writes::message(source),
    })
}

impl Executor {
    pub async fn execute(
        &self,
        set: &Arc<StatefulSet>,
        plan: &StatefulSetPlan,
    ) -> Result<(), Error> {
        let run = Run::new(self, set)?;
        for notice in &plan.notices {
            run.notify(notice);
        }
        if tracing::enabled!(tracing::Level::INFO) && plan.actions().next().is_some() {
            let (namespace, name) = (&run.namespace, &run.name);
            let actions: Vec<String> = plan.actions().map(ToString::to_string).collect();
            tracing::info!(namespace, name, ?actions, "statefulset planned");
        }
        let (result, refused) = run.follow(plan).await;
        self.refusals.replace(&object_key(set.as_ref()), refused);
        match result {
            // The namespace is terminating: no object can be created, and the garbage collector deletes the existing
            // objects.
            Err(Error::Api(error))
                if refusal(&error.source) == WriteRefusal::NamespaceTerminating =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

struct Run<'a> {
    executor: &'a Executor,
    recorder: &'a Recorder,
    set: &'a StatefulSet,
    namespace: String,
    name: String,
    uid: Uid,
    sets: Api<StatefulSet>,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
    revisions: Api<ControllerRevision>,
}

impl<'a> Run<'a> {
    fn new(executor: &'a Executor, set: &'a StatefulSet) -> Result<Self, IncompleteMetadata> {
        let namespace = set.metadata.object_namespace()?.to_owned();
        let client = &executor.client;
        Ok(Self {
            executor,
            recorder: &executor.recorder,
            set,
            name: set.metadata.object_name()?.to_owned(),
            uid: set.metadata.object_uid()?,
            sets: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            claims: Api::namespaced(client.clone(), &namespace),
            revisions: Api::namespaced(client.clone(), &namespace),
            namespace,
        })
    }

    /// Sends writes as soon as the order of the plan allows, and waits until the created and deleted pods are visible
    /// in the cache. Returns the first error, and the API server's refusals.
    async fn follow(&self, plan: &StatefulSetPlan) -> (Result<(), Error>, Vec<Refused>) {
        let mut schedule = WriteSchedule::of(plan);
        let mut sent = FuturesUnordered::new();
        let mut result = Ok(());
        let mut refusals = Vec::new();
        let mut pods = Vec::new();
        loop {
            let ready: Vec<WritePosition> = schedule.ready().collect();
            for position in ready {
                schedule.sent(position);
                let write = plan.write(position);
                sent.push(async move {
                    // Hundreds of writes may be ready at once: when the budget of this poll is used up, encoding
                    // continues in the next poll.
                    spend(1).await;
                    (position, self.write(write).await)
                });
            }
            let Some((position, done)) = sent.next().await else {
                break;
            };
            let outcome = match done {
                Ok(write) => {
                    pods.push(write);
                    WriteOutcome::Done
                }
                Err(error) => {
                    let has_capacity = refusals.len() < REFUSALS_MAX;
                    let refused = refused(plan.write(position), &error);
                    // No other write depends on the edit of a claim (rollouts.md C3): a refusal does not make the plan
                    // fail, because the next plan would then wait longer after each refusal.
                    let is_side_issue =
                        matches!(position, WritePosition::ClaimEdit(_)) && refused.is_some();
                    refusals.extend(refused.filter(|_| has_capacity));
                    if !is_side_issue {
                        result = result.and(Err(error));
                    }
                    WriteOutcome::Refused
                }
            };
            schedule.ended(plan, position, outcome);
        }
        let unseen_writes = RecentPodWrites {
            pods: self.pods.clone(),
            cache: &self.executor.cache,
            namespace: &self.namespace,
        };
        unseen_writes.wait_until_visible(pods).await;
        if result.is_ok() {
            self.wait_for_revisions(plan).await;
        }
        (result, refusals)
    }

    /// Waits until the created and rejected revisions are visible in the cache: otherwise the next plan would create them
    /// again, which the API server would refuse, or continue a rollout that failed.
    async fn wait_for_revisions(&self, plan: &StatefulSetPlan) {
        let written = plan.actions().filter_map(|action| match action {
            StatefulSetAction::CreateRevision(revision) => {
                Some((revision.metadata.name.as_deref()?, false))
            }
            StatefulSetAction::RejectRevision { name, .. } => Some((name.as_str(), true)),
            _ => None,
        });
        let cache = &self.executor.revisions;
        for (name, is_rejected) in written {
            let is_visible = |revision: &ControllerRevision| {
                let annotations = revision.metadata.annotations.as_ref();
                !is_rejected || annotations.is_some_and(|all| all.contains_key(REJECTED))
            };
            let is_cached = cache.wait_until(|| {
                let revision = cache.get(&self.namespace, name);
                revision.is_some_and(|revision| is_visible(&revision))
            });
            if tokio::time::timeout(VISIBLE_WITHIN, is_cached)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn write(&self, write: Option<Write<'_>>) -> Result<PodWrite, Error> {
        match write {
            Some(Write::Action(action)) => self.act(action).await,
            Some(Write::Status(status)) => {
                let written = self.write_status(status).await;
                written.map(|()| PodWrite::Other)
            }
            None => Ok(PodWrite::Other),
        }
    }

    async fn act(&self, action: &StatefulSetAction) -> Result<PodWrite, Error> {
        let done = match action {
            StatefulSetAction::ConfirmSet => self.confirm().await,
            StatefulSetAction::AdoptRevision { name, uid } => {
                let patch = Patch::Strategic(self.adoption(uid)?);
                patched(&self.revisions, name, patch, "adopt revision").await
            }
            StatefulSetAction::AdoptPod { name, uid } => {
                let patch = Patch::Strategic(self.adoption(uid)?);
                patched(&self.pods, name, patch, "adopt pod").await
            }
            StatefulSetAction::ReleasePod { name, uid } => {
                let owner = json!({ "$patch": "delete", "uid": self.uid });
                let meta = json!({ "uid": uid, "ownerReferences": [owner] });
                let patch = Patch::Strategic(json!({ "metadata": meta }));
                patched(&self.pods, name, patch, "release pod").await
            }
            StatefulSetAction::CreateRevision(revision) => self.create_revision(revision).await,
            StatefulSetAction::RenumberRevision {
                name,
                uid,
                revision,
            } => {
                let patch = json!({ "metadata": { "uid": uid }, "revision": revision });
                let patch = Patch::Merge(patch);
                patched(&self.revisions, name, patch, "renumber revision").await
            }
            StatefulSetAction::DeleteRevision { name, uid } => {
                let deleted =
                    guarded_writes::delete(&self.revisions, name, Delete::of_uid(uid.clone()))
                        .await;
                Ok(deleted.map(drop).map_err(failed("delete revision"))?)
            }
            StatefulSetAction::RejectRevision {
                name,
                uid,
                evidence,
            } => {
                let patch = annotation_patch(uid, REJECTED, json!(evidence).to_string());
                patched(&self.revisions, name, patch, "reject revision").await
            }
            StatefulSetAction::RecordStep { name, uid, record } => {
                let patch = annotation_patch(uid, ROLLOUT_STEP, record.text());
                patched(&self.revisions, name, patch, "record step").await
            }
            StatefulSetAction::CreateClaim(claim) => {
                let owners = claim.metadata.owner_references.as_deref();
                self.confirm_owner(owners.unwrap_or_default()).await?;
                self.create_claim(claim).await
            }
            StatefulSetAction::SetClaimOwners {
                name,
                uid,
                version,
                owners,
            } => {
                self.confirm_owner(owners).await?;
                let meta = json!({
                    "uid": uid,
                    "resourceVersion": version,
                    "ownerReferences": owners,
                });
                let patch = Patch::Merge(json!({ "metadata": meta }));
                patched(&self.claims, name, patch, "set owners of claim").await
            }
            StatefulSetAction::EditClaim {
                name,
                uid,
                version,
                edit,
            } => {
                let patch = claim_patch(uid, *version, edit);
                patched(&self.claims, name, patch, "edit claim").await
            }
            StatefulSetAction::CreatePod(pod) => return self.create_pod(pod).await,
            StatefulSetAction::LabelPod { name, uid, labels } => {
                let patch = json!({ "metadata": { "uid": uid, "labels": labels } });
                let done = patched(&self.pods, name, Patch::Merge(patch), "label pod").await;
                self.report_pod_write(
                    "update",
                    reasons::SUCCESSFUL_UPDATE,
                    reasons::FAILED_UPDATE,
                    name,
                    done,
                )
            }
            StatefulSetAction::AnnotatePod {
                name,
                uid,
                version,
                annotations,
            } => {
                let mut patch = json!({ "metadata": { "uid": uid, "annotations": annotations } });
                if let Some(version) = version {
                    patch["metadata"]["resourceVersion"] = json!(version);
                }
                patched(&self.pods, name, Patch::Merge(patch), "annotate pod").await
            }
            StatefulSetAction::DeletePod { name, uid, version } => {
                let how = Delete::of_uid(uid.clone()).at_version(*version);
                let deleted = guarded_writes::delete(&self.pods, name, how).await;
                return self.deleted(name, uid, deleted);
            }
            StatefulSetAction::EvictPod {
                name,
                uid,
                version,
                purpose,
            } => {
                let purpose = [(PURPOSE.to_owned(), purpose.as_str().to_owned())].into();
                let how = Delete::of_uid(uid.clone()).at_version(*version);
                let evicted = guarded_writes::evict(&self.pods, name, how, purpose).await;
                return self.deleted(name, uid, evicted);
            }
        };
        done.map(|()| PodWrite::Other)
    }

    async fn confirm(&self) -> Result<(), Error> {
        let live = guarded_writes::existing_object(self.sets.get(&self.name).await)
            .map_err(failed("read set"))?;
        let same = live.is_some_and(|live| {
            live.metadata.object_uid().as_ref() == Ok(&self.uid)
                && live.metadata.deletion_timestamp.is_none()
        });
        if same { Ok(()) } else { Err(Error::SetChanged) }
    }

    /// Confirms that the set exists before it becomes the owner of a claim: the garbage collector deletes the
    /// dependents of a deleted set, even if the set was deleted with `--cascade=orphan`.
    async fn confirm_owner(&self, owners: &[OwnerReference]) -> Result<(), Error> {
        if owners.iter().any(|owner| self.uid == *owner.uid.as_str()) {
            self.confirm().await?;
        }
        Ok(())
    }

    fn adoption(&self, uid: &Uid) -> Result<Value, IncompleteMetadata> {
        let owner = identity::owner_reference(self.set)?;
        Ok(json!({ "metadata": { "uid": uid, "ownerReferences": [owner] } }))
    }

    async fn create_revision(&self, revision: &ControllerRevision) -> Result<(), Error> {
        let created = self
            .revisions
            .create(&PostParams::default(), revision)
            .await;
        Ok(created.map(drop).map_err(failed("create revision"))?)
    }

    async fn create_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let name = claim.metadata.object_name()?;
        let pod = self.pod_of_claim(name);
        let set = &self.name;
        let created = self.claims.create(&PostParams::default(), claim).await;
        match &created {
            Ok(_) => {
                let text = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
                self.normal(reasons::SUCCESSFUL_CREATE, text);
            }
            Err(error) if refusal(error).is_of_old_view() => {}
            Err(error) => {
                let error = guarded_writes::message(error);
                let text = format!(
                    "create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {error}"
                );
                self.warning(reasons::FAILED_CREATE, text);
            }
        }
        Ok(created.map(drop).map_err(failed("create claim"))?)
    }

    /// The pod of a claim: `web-3` of `data-web-3`.
    fn pod_of_claim(&self, claim: &str) -> String {
        let ordinal = claim.rsplit_once('-').map_or("", |(_, ordinal)| ordinal);
        format!("{}-{ordinal}", self.name)
    }

    async fn create_pod(&self, pod: &Pod) -> Result<PodWrite, Error> {
        let name = pod.metadata.object_name()?;
        let params = PostParams::default();
        let created = self.pods.create_written(&params, pod).await;
        let done = created
            .and_then(|pod| {
                Ok(PodWrite::Created {
                    name: name.to_owned(),
                    uid: pod.uid()?,
                    version: pod.version()?,
                })
            })
            .map_err(|error| failed("create pod")(error).into());
        let (good, bad) = (reasons::SUCCESSFUL_CREATE, reasons::FAILED_CREATE);
        self.report_pod_write("create", good, bad, name, done)
    }

    /// Reports the deletion of a pod; `deleted` is false if the pod is not the planned one any more.
    fn deleted(
        &self,
        name: &str,
        uid: &Uid,
        deleted: kube_api_client::Result<bool>,
    ) -> Result<PodWrite, Error> {
        let done = match deleted {
            // Another writer has changed the claim first.
            Ok(false) => return Ok(PodWrite::Other),
            Ok(true) => Ok(PodWrite::Deleted {
                name: name.to_owned(),
                uid: uid.clone(),
            }),
            Err(error) => Err(failed("delete pod")(error).into()),
        };
        let (good, bad) = (reasons::SUCCESSFUL_DELETE, reasons::FAILED_DELETE);
        self.report_pod_write("delete", good, bad, name, done)
    }

    async fn write_status(&self, status: &StatefulSetStatus) -> Result<(), Error> {
        let meta = json!({
            "uid": self.uid,
            "resourceVersion": self.set.metadata.object_version()?,
        });
        let patch = Patch::Merge(json!({ "metadata": meta, "status": status }));
        let params = PatchParams::default();
        let written = self.sets.patch_status(&self.name, &params, &patch).await;
        if let Some(set) =
            guarded_writes::existing_object(written).map_err(failed("write status"))?
        {
            let key = object_key(self.set);
            self.executor.statuses.record(&key, self.set, set)?;
            let replicas = usize::try_from(status.replicas).unwrap_or_default();
            self.executor.pacing.written(&key, window_of(replicas));
        }
        Ok(())
    }

    /// Reports the result of a write to a pod, in kube-controller-manager's words.
    fn report_pod_write<T>(
        &self,
        verb: &str,
        good: &str,
        bad: &str,
        pod: &str,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        let set = &self.name;
        match &done {
            Ok(_) => {
                self.normal(
                    good,
                    format!("{verb} Pod {pod} in StatefulSet {set} successful"),
                );
            }
            Err(Error::Api(ApiError { source, .. })) if !refusal(source).is_of_old_view() => {
                let error = guarded_writes::message(source);
                let text = format!("{verb} Pod {pod} in StatefulSet {set} failed error: {error}");
                self.warning(bad, text);
            }
            Err(_) => {}
        }
        done
    }

    fn notify(&self, notice: &SetEvent) {
        if notice.warning {
            self.warning(notice.reason, notice.message.clone());
        } else {
            self.normal(notice.reason, notice.message.clone());
        }
    }

    fn normal(&self, reason: &str, text: String) {
        self.recorder
            .event(reference(self.set), EventType::Normal, reason, text);
    }

    fn warning(&self, reason: &str, text: String) {
        self.recorder
            .event(reference(self.set), EventType::Warning, reason, text);
    }
}

/// Patches an object; a deleted object needs no patch.
async fn patched<K>(
    api: &Api<K>,
    name: &str,
    patch: Patch<Value>,
    what: &'static str,
) -> Result<(), Error>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::default();
    let written = api.patch_written(name, &params, &patch).await;
    Ok(written.map(drop).map_err(failed(what))?)
}
