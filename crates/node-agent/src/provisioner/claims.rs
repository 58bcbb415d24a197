//! Making a volume for a claim.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use reconcile::execute::{Refusal, chain, refusal, unless_outrun};
use reconcile::{Key, Outcome};
use resource_kinds::annotations::SELECTED_NODE;
use resource_kinds::reasons::volume as reasons;
use serde_json::json;

use super::decide::{Demand, class_name, demand, volume, volume_name};
use super::{Provisioner, ProvisionerError as Error};

/// First delay after a volume could not be made.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest delay; external provisioners have about the same.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Claims whose volumes could not be made, by identity: when to try again.
#[derive(Debug, Default)]
pub(crate) struct Setbacks {
    by_uid: BTreeMap<String, (u32, Instant)>,
}

impl Setbacks {
    /// How long to wait before the next attempt.
    fn remaining(&self, uid: &str, now: Instant) -> Option<Duration> {
        let (_, until) = self.by_uid.get(uid)?;
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    fn add(&mut self, uid: &str, now: Instant) -> Duration {
        // Those of claims that are gone since.
        self.by_uid
            .retain(|_, (_, until)| *until + 2 * RETRY_MAX > now);
        let (count, until) = self.by_uid.entry(uid.to_owned()).or_insert((0, now));
        let delay = RETRY_MIN
            .saturating_mul(1 << (*count).min(16))
            .min(RETRY_MAX);
        *count = count.saturating_add(1);
        *until = now + delay;
        delay
    }

    fn forget(&mut self, uid: &str) {
        self.by_uid.remove(uid);
    }
}

impl Provisioner {
    /// Makes a volume for the claim, if it is for this node to make one.
    pub(crate) async fn provision(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(Outcome::Done);
        };
        let class = class_name(&claim).and_then(|class| self.classes.get("", class));
        let wanted = demand(&claim, class.as_deref(), &self.config.node_name);
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        let Some(class) = class.filter(|_| wanted != Demand::None) else {
            return Ok(Outcome::Done);
        };
        let name = volume_name(&claim).unwrap_or_default();
        if self.volumes.get("", &name).is_some() {
            return Ok(Outcome::Done); // made; the binder goes on
        }
        let waiting = {
            let setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
            setbacks.remaining(&uid, Instant::now())
        };
        if let Some(delay) = waiting {
            return Ok(Outcome::RequeueAfter(delay));
        }
        let attempt = match wanted {
            Demand::Unsupported(text) => Err(Error::Unsupported(text)),
            Demand::Anywhere if !self.is_first_node().await? => return Ok(Outcome::Done),
            _ => self.make(&claim, &class, &name).await,
        };
        match attempt {
            Ok(()) => {
                let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
                setbacks.forget(&uid);
                Ok(Outcome::Done)
            }
            Err(error) => self.give_up(&claim, &class, &uid, &error).await,
        }
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        name: &str,
    ) -> Result<(), Error> {
        let directory = self.directories.make(name).await?;
        let made = volume(claim, class, &self.config.node_name, &directory);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &made).await {
            Ok(_) => {
                let text = format!(
                    "Successfully provisioned volume {name} using {}",
                    class.provisioner
                );
                self.recorder
                    .normal(claim, reasons::PROVISIONING_SUCCEEDED, text);
                tracing::info!(volume = name, path = %directory.display(), "volume made");
                Ok(())
            }
            Err(error) if refusal(&error) == Refusal::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says what went wrong. A pod that was sent here on account of the volume is sent on its way
    /// again (statefulset.md §11.6); what the API server refused is tried again here.
    async fn give_up(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        uid: &str,
        error: &Error,
    ) -> Result<Outcome, Error> {
        let delay = {
            let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
            setbacks.add(uid, Instant::now())
        };
        let class_name = class.metadata.name.as_deref().unwrap_or_default();
        let text = format!(
            "failed to provision volume with StorageClass {class_name:?}: {}",
            chain(error)
        );
        tracing::warn!(claim = claim.metadata.name, error = text, "volume not made");
        self.recorder
            .warning(claim, reasons::PROVISIONING_FAILED, text);
        let of_this_node = !matches!(error, Error::Api(_) | Error::Unsupported(_));
        if of_this_node {
            self.send_away(claim).await?;
        }
        Ok(Outcome::RequeueAfter(delay))
    }

    async fn send_away(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let patch = json!({"metadata": {
            "uid": claim.metadata.uid,
            "resourceVersion": claim.metadata.resource_version,
            "annotations": {SELECTED_NODE: null},
        }});
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let written = api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        unless_outrun(written)?;
        Ok(())
    }

    /// Claims that do not care where they are go to the first of the nodes that are ready, so
    /// that one makes the volume, not all.
    async fn is_first_node(&self) -> Result<bool, Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let listed = nodes.list(&ListParams::default()).await?;
        let ready = listed.items.iter().filter(|node| is_ready(node));
        let first = ready.filter_map(|node| node.metadata.name.as_deref()).min();
        Ok(first.is_none_or(|first| first == self.config.node_name))
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setbacks_double_the_delay_until_they_are_forgotten() {
        let mut setbacks = Setbacks::default();
        let now = Instant::now();
        assert_eq!(setbacks.remaining("a", now), None);
        assert_eq!(setbacks.add("a", now), RETRY_MIN);
        assert_eq!(setbacks.remaining("a", now), Some(RETRY_MIN));
        assert_eq!(setbacks.remaining("a", now + RETRY_MIN), None);
        assert_eq!(setbacks.add("a", now), RETRY_MIN * 2);
        for _ in 0..20 {
            setbacks.add("a", now);
        }
        assert_eq!(setbacks.remaining("a", now), Some(RETRY_MAX));
        setbacks.forget("a");
        assert_eq!(setbacks.remaining("a", now), None);
    }
}
