//! The causes for a claim: its class, its volume, its provisioner, and the pods that use it.

use controller_planners::stateful_set::identity;
use controller_planners::volume_binding::{ClaimView, plan_claim};
use controller_planners::volume_protection::{names, uses};
use controller_planners::volume_replication::condition_message;
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use object_model::Quantity;
use pod_lifecycle::diagnosis::{Remedy, remedy, text};
use resource_kinds::annotations;
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::nfs_class::is_nfs_provisioner;
use resource_kinds::storage::volume_replication::VolumeReplication;
use resource_kinds::storage::volume_size::CONDITION;
use resource_kinds::storage::{Driver, rbd};
use resource_kinds::volume_fit::requested_class;

use super::chain_builder::ChainBuilder;
use super::explanation::{CauseChain, Explanation, Object};
use super::observed::ObservedNamespace;
use super::sets;

/// Explains why the claim waits, or which volume it is bound to.
pub(super) fn explain(
    observed: &ObservedNamespace,
    claim: &PersistentVolumeClaim,
    object: Object,
) -> Explanation {
    let deleting = claim.metadata.deletion_timestamp.is_some();
    let mut explanation = Explanation {
        object,
        summary: if deleting {
            "Terminating"
        } else {
            phase(claim)
        }
        .to_owned(),
        chains: Vec::new(),
        notes: notes(observed, claim),
    };
    if phase(claim) == "Bound" && !deleting {
        let volume = volume_name(claim).unwrap_or_default();
        explanation.summary = format!("Bound to volume {volume}");
        let grows = growth(observed, claim, &explanation.object);
        return explanation.waits(grows);
    }
    let mut builder = ChainBuilder::of(observed);
    builder.claim(text::name(&claim.metadata));
    explanation.chains.push(builder.chain());
    explanation
}

/// The cause of a pending expansion of the claim.
fn growth(
    observed: &ObservedNamespace,
    claim: &PersistentVolumeClaim,
    object: &Object,
) -> Option<CauseChain> {
    let mut builder = ChainBuilder::of(observed);
    add_growth(&mut builder, claim, object)?;
    Some(builder.chain())
}

/// Adds the cause of a pending expansion of the claim; `None` if there is none.
fn add_growth(
    builder: &mut ChainBuilder<'_>,
    claim: &PersistentVolumeClaim,
    object: &Object,
) -> Option<()> {
    let observed = builder.observed;
    let status = claim.status.as_ref()?;
    let has = status.capacity.as_ref()?.get("storage")?;
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    let requested = requests.get("storage")?;
    let amount = |text: &str| text.parse::<Quantity>().ok();
    if amount(&requested.0)? <= amount(&has.0)? {
        return None;
    }
    let find = |kinds: &[&str]| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|one| kinds.contains(&one.type_.as_str()) && one.status == "True")
    };
    let (has, requested) = (&has.0, &requested.0);
    let name = text::name(&claim.metadata);
    let user = users(observed, name, |pod| pod.node.is_some() && uses(pod, name));
    let user = user.first().copied();
    if let Some(failed) = find(&["ControllerResizeError", "NodeResizeError"]) {
        let detail = text::then(": ", failed.message.as_deref().unwrap_or_default());
        let since = failed.last_transition_time.as_ref().map(|time| time.0);
        let message = format!("could not grow from {has} to {requested}{detail}");
        builder.link(object.clone(), &*failed.type_, message, since);
        // After an infeasible expansion the resizer has to act, and acts only after a new request.
        let is_of_node = failed.type_ == "NodeResizeError" && !is_infeasible(claim);
        builder.remedy(match is_of_node {
            true => on_node(user),
            false => smaller(observed, object, has),
        });
        return Some(());
    }
    if let Some(pending) = find(&["FileSystemResizePending"]) {
        let since = pending.last_transition_time.as_ref().map(|time| time.0);
        let message = format!(
            "is to grow from {has} to {requested}: its storage has grown, its file system not yet"
        );
        builder.link(object.clone(), &*pending.type_, message, since);
        builder.remedy(match user {
            Some(user) => format!(
                "nothing to do; node {} has its driver do it while pod {} runs",
                user.node.as_deref().unwrap_or_default(),
                user.name
            ),
            None => {
                "create a pod that uses it: the rest is done when the volume is mounted".to_owned()
            }
        });
        return Some(());
    }
    let message = format!("is to grow from {has} to {requested}");
    builder.link(object.clone(), "Resizing", message, None);
    builder.remedy("nothing to do; the provisioner of its class is about to do it");
    Some(())
}

/// Whether the node has returned an expansion to the resizer as infeasible.
fn is_infeasible(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let states = status.and_then(|status| status.allocated_resource_statuses.as_ref());
    let state = states.and_then(|states| states.get("storage"));
    state.is_some_and(|state| state == "NodeResizeInfeasible")
}

/// The remedy for an expansion that failed on the node of this pod.
fn on_node(user: Option<&PodView>) -> Remedy {
    match user {
        Some(user) => Remedy::new(
            "the node tries again while the volume is in use; a driver that cannot do it then does \
             it at the next mount, so restart the pod",
        )
        .with(remedy::delete(user)),
        None => Remedy::new("a pod that uses it: the node tries again when the volume is mounted"),
    }
}

/// The remedy for storage that cannot grow to the requested size.
fn smaller(observed: &ObservedNamespace, claim: &Object, has: &str) -> Remedy {
    let patch = format!(
        "patch pvc {} -p '{{\"spec\":{{\"resources\":{{\"requests\":{{\"storage\":\"SIZE\"}}}}}}}}'",
        claim.name
    );
    let patch = text::kubectl(&observed.namespace, &patch);
    let text = format!("free space where its volume is, or request a smaller size above {has}");
    Remedy::new(text).with(patch)
}

/// The command that recreates a claim with a change to an immutable field.
pub(super) fn anew(claim: &PersistentVolumeClaim, change: &Value) -> String {
    let patch = format!(
        "patch pvc {} --dry-run=client -o yaml -p '{}'",
        text::name(&claim.metadata),
        json!({ "spec": change })
    );
    format!(
        "{} | kubectl replace --force -f -",
        text::kubectl(text::namespace(&claim.metadata), &patch)
    )
}

/// The users of the claim, and the condition for its deletion.
fn notes(observed: &ObservedNamespace, claim: &PersistentVolumeClaim) -> Vec<String> {
    let name = text::name(&claim.metadata);
    let mut notes = Vec::new();
    let users = users(observed, name, |_| true);
    if !users.is_empty() {
        let list = text::list(users.iter().map(|pod| &*pod.name));
        notes.push(format!("used by {list}"));
    }
    let template = observed
        .sets
        .iter()
        .find_map(|set| Some((set, sets::claim_ordinal(set, name)?)));
    if let Some((set, ordinal)) = template {
        notes.push(retention(set, ordinal));
    }
    notes.extend(replication(observed, claim));
    notes.extend(unlimited(claim));
    notes
}

/// A note if the size of the claim's volume is not enforced.
fn unlimited(claim: &PersistentVolumeClaim) -> Option<String> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    let mut conditions = conditions.iter();
    let condition = conditions.find(|one| one.type_ == CONDITION && one.status == "False")?;
    condition.message.clone()
}

/// The state of the copies of a claim's volume on another node, and the recovery point of the last promotion.
pub(super) fn replication(
    observed: &ObservedNamespace,
    claim: &PersistentVolumeClaim,
) -> Option<String> {
    let volume = observed.volume(volume_name(claim)?)?;
    let record = VolumeReplication::of(volume)?;
    Some(condition_message(&record))
}

/// The effect of the set's retention policy on the claim (`statefulset.md` 2.11).
fn retention(set: &StatefulSet, ordinal: i64) -> String {
    let name = text::name(&set.metadata);
    let policy = set.spec.as_ref().and_then(|spec| {
        let policy = spec.persistent_volume_claim_retention_policy.as_ref()?;
        Some((
            policy.when_scaled.as_deref(),
            policy.when_deleted.as_deref(),
        ))
    });
    let (scaled, deleted) = policy.unwrap_or_default();
    let pod = identity::pod_name(name, ordinal);
    let scaled = (scaled == Some("Delete")).then(|| format!("{pod} is scaled away"));
    let deleted = (deleted == Some("Delete")).then(|| format!("StatefulSet {name} is deleted"));
    let when: Vec<String> = scaled.into_iter().chain(deleted).collect();
    match when.as_slice() {
        [] => format!("kept for {pod} of StatefulSet {name}, even if the pod is deleted"),
        when => format!("deleted when {}", when.join(" or ")),
    }
}

fn users<'e>(
    observed: &'e ObservedNamespace,
    claim: &str,
    matches: impl Fn(&PodView) -> bool,
) -> Vec<&'e PodView> {
    let pods = observed.pods.iter().map(AsRef::as_ref);
    let users = pods.filter(|pod| names(pod, claim));
    users.filter(|pod| matches(pod)).collect()
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let status = claim.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref();
    name.filter(|name| !name.is_empty())
}

impl ChainBuilder<'_> {
    /// Adds the cause why the volume of a bound claim does not grow.
    pub fn claim_growth(&mut self, name: &str) {
        let object = self.observed.object("PersistentVolumeClaim", name);
        if let Some(claim) = self.observed.claim(name) {
            add_growth(self, claim, &object);
        }
    }

    /// Adds the causes why the claim waits.
    pub fn claim(&mut self, name: &str) {
        let object = self.observed.object("PersistentVolumeClaim", name);
        if !self.visit(&object) {
            return;
        }
        let Some(claim) = self.observed.claim(name) else {
            return self.missing_claim(object);
        };
        if claim.metadata.deletion_timestamp.is_some() {
            self.claim_deleting(claim, object);
        } else if phase(claim) == "Bound" {
            self.link(object, "Bound", "is bound by now", None);
            self.remedy("nothing to do; the scheduler will look again");
        } else {
            self.claim_unbound(claim, object);
        }
    }

    fn missing_claim(&mut self, object: Object) {
        let name = object.name.clone();
        self.link(object, "NotFound", "does not exist", None);
        let mut sets = self.observed.sets.iter();
        let maker = sets.find(|set| sets::claim_ordinal(set, &name).is_some());
        match maker {
            Some(set) => {
                let set = text::name(&set.metadata);
                self.remedy(format!("nothing to do; StatefulSet {set} makes it again"))
            }
            None => self.remedy(format!("create a claim of the name {name}")),
        };
    }

    /// `statefulset.md` 11.10
    fn claim_deleting(&mut self, claim: &PersistentVolumeClaim, object: Object) {
        let since = claim
            .metadata
            .deletion_timestamp
            .as_ref()
            .map(|time| time.0);
        let name = text::name(&claim.metadata);
        let users = users(self.observed, name, |pod| uses(pod, name));
        let foreign = text::finalizers(claim.metadata.finalizers.iter().flatten());
        if let Some(first) = users.first() {
            let list = text::list(users.iter().map(|pod| &*pod.name));
            let message = format!("being deleted, but kept while {list} uses it (pvc-protection)");
            self.link(object, "ProtectedByPods", message, since);
            let delete = format!("delete pod {}", first.name);
            let delete = text::kubectl(text::namespace(&claim.metadata), &delete);
            let text =
                "delete the pod; the data is then deleted or kept by the volume's reclaim policy";
            self.remedy(Remedy::new(text).with(delete));
            if first.is_deleting() {
                self.pod(first);
            }
        } else if foreign.is_empty() {
            self.link(object, "Terminating", "being deleted", since);
            self.remedy("nothing to do; it is unused and will be removed shortly");
        } else {
            let list = foreign.join(", ");
            let message = format!("being deleted: finalizers hold it: {list}");
            self.link(object, "HeldByFinalizer", message, since);
            let patch = format!(
                "patch pvc {name} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"
            );
            let patch = text::kubectl(text::namespace(&claim.metadata), &patch);
            let text =
                format!("the owner of {list} must finish and remove it; to force the removal");
            self.remedy(Remedy::new(text).with(patch));
        }
    }

    /// `statefulset.md` 11.2 to 11.9
    fn claim_unbound(&mut self, claim: &PersistentVolumeClaim, object: Object) {
        let since = claim
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        let Some(text) = self.claim_waits_for(claim) else {
            // Volumes and classes could not be read.
            let reason = phase(claim).to_owned();
            let describe = format!("describe pvc {}", object.name);
            let describe = text::kubectl(text::namespace(&claim.metadata), &describe);
            self.link(object.clone(), reason, "has no volume yet", since);
            self.remedy(format!("see {describe}"));
            self.claim_event(claim, &object, |_| true);
            return;
        };
        self.link(object.clone(), phase(claim), text, since);
        if phase(claim) == "Lost" {
            let volume = volume_name(claim).unwrap_or("of the claim");
            let delete = format!("delete pvc {}", object.name);
            let delete = text::kubectl(text::namespace(&claim.metadata), &delete);
            let text = format!(
                "the PersistentVolume {volume} has to come back; its data is lost with it: to \
                 continue with an empty volume, delete the claim, and the pods that use it"
            );
            self.remedy(Remedy::new(text).with(delete));
        } else if let Some(volume) = volume_name(claim) {
            self.remedy(format!(
                "a PersistentVolume {volume} that is free and fits the claim"
            ));
        } else {
            self.class_of(claim, &object);
        }
    }

    /// The claim's newest event from the volume binder.
    fn claim_waits_for(&self, claim: &PersistentVolumeClaim) -> Option<String> {
        let name = text::name(&claim.metadata);
        let unscheduled = users(self.observed, name, |pod| pod.node.is_none());
        let unscheduled: Vec<String> = unscheduled.iter().map(|pod| pod.name.to_string()).collect();
        let view = ClaimView {
            claim,
            volumes: self.observed.cluster.volumes.as_deref()?,
            classes: self.observed.cluster.classes.as_deref()?,
            unscheduled_pods: &unscheduled,
            is_driver_absent: false,
        };
        let plan = plan_claim(&view, self.observed.now).ok()?;
        Some(
            plan.waiting_on
                .unwrap_or_else(|| "is about to be bound".to_owned()),
        )
    }

    fn class_of(&mut self, claim: &PersistentVolumeClaim, object: &Object) {
        let named = requested_class(claim).filter(|class| !class.is_empty());
        let Some(name) = named else {
            return self.no_class(claim);
        };
        let class_object = Object::new("StorageClass", None, name);
        let Some(class) = self.observed.class(name) else {
            let classes = self.observed.cluster.classes.iter().flatten();
            let classes: Vec<&str> = classes.map(|class| text::name(&class.metadata)).collect();
            let names = text::list(classes.iter().copied());
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                names
            };
            self.link(class_object, "NotFound", "does not exist", None);
            let first = classes.first().copied().unwrap_or("CLASS");
            let text = format!(
                "create StorageClass {name}, or recreate the claim with an existing one ({names}), because a claim's class is immutable"
            );
            let anew = anew(claim, &json!({ "storageClassName": first }));
            self.remedy(Remedy::new(text).with(anew));
            return;
        };
        let annotations = claim.metadata.annotations.as_ref();
        let selected = annotations.and_then(|all| all.get(annotations::SELECTED_NODE));
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        let kind = "PersistentVolumeClaim";
        let uid = claim.metadata.uid.as_deref();
        let failed = |event: &Event| event.reason.as_deref() == Some("ProvisioningFailed");
        let failure = self.observed.newest_event(kind, &object.name, uid, failed);
        match selected {
            // A provisioner that cannot create the volume on the chosen node removes the choice of the node.
            None if waits && failure.is_none() => self.consumer(claim),
            node => self.provisioner(claim, object, class, node.map(String::as_str)),
        }
    }

    fn no_class(&mut self, claim: &PersistentVolumeClaim) {
        if requested_class(claim).is_some() {
            self.remedy(
                "create a PersistentVolume without a class that is free and fits in size and access \
                 modes (the claim says storageClassName: \"\")",
            );
        } else {
            self.remedy(
                "a default class: kubectl annotate storageclass NAME \
                 storageclass.kubernetes.io/is-default-class=true; or a PersistentVolume without \
                 a class that fits",
            );
        }
    }

    /// The volume is provisioned after the first pod is scheduled (`statefulset.md` 11.6).
    fn consumer(&mut self, claim: &PersistentVolumeClaim) {
        let name = text::name(&claim.metadata);
        match users(self.observed, name, |pod| pod.node.is_none()).first() {
            None => {
                self.remedy("create a pod that uses it: the volume is made on the pod's node");
            }
            Some(pod) => {
                let pod_name = &pod.name;
                self.remedy(format!(
                    "nothing to do; pod {pod_name} is about to be scheduled"
                ));
                self.pod(pod);
            }
        }
    }

    /// `statefulset.md` 11.7
    fn provisioner(
        &mut self,
        claim: &PersistentVolumeClaim,
        object: &Object,
        class: &StorageClass,
        node: Option<&str>,
    ) {
        if let Some(node) = node
            && self.node(node)
        {
            self.remedy(format!(
                "node {node} must be healthy again: kubectl describe node {node}"
            ));
            return;
        }
        let provisioner = &class.provisioner;
        let location = node.map_or(String::new(), |node| format!(" on node {node}"));
        let name = text::name(&class.metadata);
        let warning = |event: &Event| event.type_.as_deref() == Some("Warning");
        let message = self.claim_event(claim, object, warning).unwrap_or_default();
        self.remedy(if message.contains("access mode") {
            let anew = anew(claim, &json!({ "accessModes": ["ReadWriteOnce"] }));
            let text =
                "access modes that the provisioner offers; a claim's are immutable, so recreate it";
            Remedy::new(text).with(anew)
        } else if self.is_on_no_node(provisioner) {
            Remedy::new(format!(
                "provisioner {provisioner} of StorageClass {name} has to make the volume{location}: no \
                 CSINode names a driver {provisioner}, so it is not installed, its pods do not run, \
                 or it is no CSI driver"
            ))
            .with("kubectl get csidrivers,csinodes".to_owned())
        } else if message.is_empty() {
            Remedy::new(format!(
                "provisioner {provisioner} of StorageClass {name} has to make the volume{location}: see \
                 that it runs"
            ))
        } else {
            Remedy::new(format!(
                "correct the cause of that warning: provisioner {provisioner} of StorageClass {name} \
                 tries again to make the volume{location}"
            ))
        });
    }

    /// Whether a provisioner is not built in and no node has a driver of its name.
    fn is_on_no_node(&self, provisioner: &str) -> bool {
        let is_built_in = Driver::of_provisioner(provisioner).is_some()
            || is_nfs_provisioner(provisioner)
            || provisioner == rbd::PROVISIONER;
        let nodes = self.observed.cluster.csi_nodes.as_deref();
        let nodes = nodes.filter(|_| !is_built_in);
        nodes.is_some_and(|nodes| {
            let mut drivers = nodes.iter().flat_map(|node| &node.spec.drivers);
            !drivers.any(|driver| driver.name == provisioner)
        })
    }

    fn claim_event(
        &mut self,
        claim: &PersistentVolumeClaim,
        object: &Object,
        matches: impl Fn(&Event) -> bool,
    ) -> Option<String> {
        let (kind, name) = ("PersistentVolumeClaim", text::name(&claim.metadata));
        let uid = claim.metadata.uid.as_deref();
        let event = self.observed.newest_event(kind, name, uid, matches)?;
        self.event(event, object.clone());
        event.message.clone()
    }
}
