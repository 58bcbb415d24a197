//! The record of a replicated volume, which is an annotation of the PersistentVolume, and the parameters of its
//! class.
//!
//! Each promotion, and each replacement of the replica, increments the epoch; nodes refuse the steps of an earlier
//! epoch. Each write replaces the record under the volume's resourceVersion. The write of
//! [`ReplicationStage::Promoted`] changes the volume's node affinity and path together with the record.
//!
//! Only one node can be promoted: [`VolumeReplication::replica`]. A node that will replace the replica is the
//! [`VolumeReplication::successor`] until it has a complete copy.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::driver::Driver;
use super::volume_move::affinity_to;
use crate::well_known::annotations::VOLUME_REPLICATION;

/// The class parameter with the number of seconds between two copies.
pub const INTERVAL_PARAMETER: &str = "replicationIntervalSeconds";
/// The class parameter with the number of replicas.
pub const REPLICAS_PARAMETER: &str = "replicas";
/// The range of allowed intervals, in seconds.
const INTERVALS: RangeInclusive<u32> = 2..=86_400;
/// The interval of classes that only set the number of replicas, in seconds.
pub const INTERVAL_DEFAULT: u32 = 10;
/// The class parameter with the number of seconds for which a replica's node may be lost before it is replaced.
pub const REPLACEMENT_PARAMETER: &str = "replicaReplacementSeconds";
/// The range of allowed times until a replica is replaced, in seconds.
const REPLACEMENTS: RangeInclusive<u32> = 10..=2_592_000;
/// The replacement time of classes that do not set it, in seconds.
pub const REPLACEMENT_DEFAULT: u32 = 600;
/// The condition of a claim with the state of its replica.
pub const CONDITION: &str = "mainstay.dev/Replicated";

/// The progress of a replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReplicationStage {
    /// The primary sends snapshots to the replica.
    Replicating,
    /// The primary is lost; the replica accepts no more copies. No pod with the volume may start.
    Promoting,
    /// The volume belongs to the node of the former replica, where the copy gets the name of the volume.
    Promoted,
    /// Replication has ended: the replica has removed its copies, and the volume may be removed.
    Ended,
}

/// The promotion of a replica after the loss of its primary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Recovery {
    /// The lost node.
    pub from: String,
    /// The recovery point, in milliseconds since 1970: the copy contains each write that ended before this time.
    pub time: i64,
}

/// The retained state of a primary that returned after another node was promoted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Divergence {
    /// The node with the snapshot.
    pub node: String,
    /// The name of the read-only snapshot, in the pool's directory `snapshots`.
    pub snapshot: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeReplication {
    /// The epoch: starts at 1, and changes with each primary and each replica.
    pub epoch: u32,
    pub primary: String,
    /// The node with the copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The node that replaces the replica when it has a complete copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// Nodes that had copies or the volume, and must remove them when they return.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
    pub interval_seconds: u32,
    /// Seconds for which the node of the replica may be lost before another node replaces it.
    #[serde(default = "replacement_default")]
    pub replacement_seconds: u32,
    pub stage: ReplicationStage,
    /// The time of the last complete copy on the replica, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<i64>,
    /// The last promotion of a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// The states of former primaries that differ from the promoted copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diverged: Vec<Divergence>,
    /// The event for which replication waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn replacement_default() -> u32 {
    REPLACEMENT_DEFAULT
}

/// The parameters of a class whose volumes have a replica, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The time between two copies.
    pub interval: u32,
    /// The time from the loss of a replica's node to the choice of another node.
    pub replacement: u32,
}

impl VolumeReplication {
    /// The record of a new volume.
    pub fn new(primary: &str, parameters: Parameters) -> Self {
        Self {
            epoch: 1,
            primary: primary.to_owned(),
            replica: None,
            successor: None,
            former: Vec::new(),
            interval_seconds: parameters.interval,
            replacement_seconds: parameters.replacement,
            stage: ReplicationStage::Replicating,
            last: None,
            recovery: None,
            diverged: Vec::new(),
            message: None,
        }
    }

    /// The record of a volume; `None` for a volume without replicas, and for an invalid annotation.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let text = volume
            .metadata
            .annotations
            .as_ref()?
            .get(VOLUME_REPLICATION)?;
        serde_json::from_str(text).ok()
    }

    pub fn to_text(&self) -> String {
        // The record contains only texts, numbers and words, so the serialisation cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The node to which the primary sends copies: the successor or the replica.
    pub fn receiver(&self) -> Option<&str> {
        self.successor.as_deref().or(self.replica.as_deref())
    }

    /// The nodes besides the primary that may have data of the volume.
    pub fn others(&self) -> BTreeSet<&str> {
        let named = self.replica.iter().chain(&self.successor);
        let snapshots = self.diverged.iter().map(|one| &one.node);
        named
            .chain(&self.former)
            .chain(snapshots)
            .map(String::as_str)
            .filter(|node| *node != self.primary)
            .collect()
    }

    /// The record without the successor, and without the present replica unless it is `replica`; the removed nodes
    /// delete their copies. Increments the epoch.
    pub fn replaced(&self, replica: Option<&str>) -> Self {
        let mut former: BTreeSet<String> = self.former.iter().cloned().collect();
        former.extend(self.replica.iter().chain(&self.successor).cloned());
        former.retain(|node| Some(node.as_str()) != replica);
        Self {
            epoch: self.epoch + 1,
            replica: replica.map(str::to_owned),
            successor: None,
            former: former.into_iter().collect(),
            message: None,
            ..self.clone()
        }
    }

    /// Whether the replica has a complete copy.
    pub fn can_be_promoted(&self) -> bool {
        self.stage != ReplicationStage::Ended && self.replica.is_some() && self.last.is_some()
    }

    /// The reason why no pod on the node may use the volume now; `None` if pods may use it.
    pub fn refusal(&self, node: &str) -> Option<String> {
        let promotion = match (self.stage, &self.recovery) {
            (ReplicationStage::Promoting, _) => Some((self.replica.as_deref(), &self.primary)),
            // The copy does not have the name of the volume yet.
            (ReplicationStage::Promoted, Some(recovery)) => {
                Some((Some(&*self.primary), &recovery.from))
            }
            _ => None,
        };
        if let Some((node, lost)) = promotion {
            let node = node.unwrap_or_default();
            return Some(format!(
                "the volume is being promoted on node {node:?}, because node {lost:?} is lost"
            ));
        }
        (self.primary != node).then(|| {
            format!(
                "the volume belongs to node {:?}, and not to node {node:?}",
                self.primary
            )
        })
    }
}

/// A time of a record in the format for users.
pub fn time_text(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    time.to_string()
}

/// A parameter of a class with an unsupported value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplicationParameterError {
    #[error("the parameter {parameter} must be a number of seconds from {min} to {max}")]
    Seconds {
        parameter: &'static str,
        min: u32,
        max: u32,
    },
    #[error("the parameter {REPLICAS_PARAMETER} must be 0 or 1")]
    Replicas,
}

/// The parameters of a class whose volumes have a replica; `None` for a class without replicas.
pub fn parameters_of_class(
    class: &StorageClass,
) -> Result<Option<Parameters>, ReplicationParameterError> {
    if Driver::of_provisioner(&class.provisioner) != Some(Driver::LocalCow) {
        return Ok(None);
    }
    let none = BTreeMap::new();
    let parameters = class.parameters.as_ref().unwrap_or(&none);
    let seconds = |parameter: &'static str, range: RangeInclusive<u32>| {
        let Some(text) = parameters.get(parameter) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number
            .map(Some)
            .ok_or_else(|| ReplicationParameterError::Seconds {
                parameter,
                min: *range.start(),
                max: *range.end(),
            })
    };
    let interval = seconds(INTERVAL_PARAMETER, INTERVALS)?;
    let replacement = seconds(REPLACEMENT_PARAMETER, REPLACEMENTS)?;
    let has_times = interval.or(replacement).is_some();
    match parameters.get(REPLICAS_PARAMETER).map(String::as_str) {
        None if !has_times => Ok(None),
        Some("0") if !has_times => Ok(None),
        None | Some("1") => Ok(Some(Parameters {
            interval: interval.unwrap_or(INTERVAL_DEFAULT),
            replacement: replacement.unwrap_or(REPLACEMENT_DEFAULT),
        })),
        Some(_) => Err(ReplicationParameterError::Replicas),
    }
}

/// Whether another node has copies of the volume, which must be removed before the volume.
pub fn has_replica(volume: &PersistentVolume) -> bool {
    VolumeReplication::of(volume)
        .is_some_and(|record| record.stage != ReplicationStage::Ended && record.replica.is_some())
}

fn text_of(volume: &Value) -> Option<&str> {
    volume["metadata"]["annotations"][VOLUME_REPLICATION].as_str()
}

fn record_of(volume: &Value) -> Option<VolumeReplication> {
    serde_json::from_str(text_of(volume)?).ok()
}

/// The reason why a write of the record is refused.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum ReplicationRecordError {
    #[error("the record of a replicated volume stays")]
    Removed,
    #[error("is not the record of a replicated volume: {0}")]
    Json(String),
    #[error("must have an epoch from 1 and different nodes")]
    Malformed,
    #[error("the stage {new:?} of epoch {new_epoch} does not follow {old:?} of epoch {old_epoch}")]
    Stage {
        new: ReplicationStage,
        new_epoch: u32,
        old: ReplicationStage,
        old_epoch: u32,
    },
}

/// Checks a write of the record. `old` is null for a new volume.
pub(crate) fn check(volume: &Value, old: &Value) -> Result<(), ReplicationRecordError> {
    let Some(text) = text_of(volume).filter(|text| Some(*text) != text_of(old)) else {
        return match (text_of(volume), record_of(old)) {
            (None, Some(old)) if old.stage != ReplicationStage::Ended => {
                Err(ReplicationRecordError::Removed)
            }
            _ => Ok(()),
        };
    };
    let new: VolumeReplication = serde_json::from_str(text)
        .map_err(|error| ReplicationRecordError::Json(error.to_string()))?;
    let named = [
        Some(&new.primary),
        new.replica.as_ref(),
        new.successor.as_ref(),
    ];
    let named: Vec<&String> = named.into_iter().flatten().collect();
    let different: BTreeSet<&String> = named.iter().copied().collect();
    if new.epoch == 0 || new.primary.is_empty() || different.len() < named.len() {
        return Err(ReplicationRecordError::Malformed);
    }
    let Some(old) = record_of(old) else {
        return Ok(());
    };
    // Copies on another node do not count as copies on the replica.
    let has_same_primary = (old.epoch, &old.primary) == (new.epoch, &new.primary)
        && (old.replica == new.replica || old.replica.is_none());
    let is_step = match (old.stage, new.stage) {
        (ReplicationStage::Replicating, ReplicationStage::Promoting) => {
            new.epoch == old.epoch + 1
                && (&new.primary, &new.replica, new.last) == (&old.primary, &old.replica, old.last)
        }
        (ReplicationStage::Promoting, ReplicationStage::Promoted) => {
            new.epoch == old.epoch
                && Some(&new.primary) == old.replica.as_ref()
                && new.replica.as_ref() == Some(&old.primary)
        }
        (ReplicationStage::Replicating, ReplicationStage::Replicating) if !has_same_primary => {
            is_replaced(&old, &new)
        }
        (
            ReplicationStage::Promoting
            | ReplicationStage::Promoted
            | ReplicationStage::Replicating,
            ReplicationStage::Replicating,
        )
        | (ReplicationStage::Replicating, ReplicationStage::Ended) => has_same_primary,
        (before, after) => before == after && has_same_primary,
    };
    match is_step {
        true => Ok(()),
        false => Err(ReplicationRecordError::Stage {
            new: new.stage,
            new_epoch: new.epoch,
            old: old.stage,
            old_epoch: old.epoch,
        }),
    }
}

/// Whether a write replaces the replica by its successor, or removes the successor. The removed node is added to
/// `former`, because it has copies.
fn is_replaced(old: &VolumeReplication, new: &VolumeReplication) -> bool {
    let is_successor = new.replica == old.successor && new.replica.is_some();
    let left = match is_successor {
        true => &old.replica,
        false => &old.successor,
    };
    (new.epoch, &new.primary) == (old.epoch + 1, &old.primary)
        && (is_successor || new.replica == old.replica)
        && new.successor.is_none()
        && left.as_ref().is_some_and(|node| new.former.contains(node))
}

/// Whether a write assigns the volume to the node of its replica: the stage is `Promoted`, and the affinity is that
/// of the record. No other part of the volume source may change, except the path.
pub(crate) fn is_promoted_by(volume: &Value, old: &Value) -> bool {
    let (Some(new), Some(before)) = (record_of(volume), record_of(old)) else {
        return false;
    };
    let path = volume["spec"]["local"]["path"].as_str();
    let mut expected = old["spec"].clone();
    expected["nodeAffinity"] = affinity_to(&new.primary);
    expected["local"]["path"] = json!(path);
    (before.stage, new.stage) == (ReplicationStage::Promoting, ReplicationStage::Promoted)
        && check(volume, old).is_ok()
        && path.is_some_and(|path| path.starts_with('/'))
        && old["spec"]["local"].is_object()
        && old["spec"]["nodeAffinity"] == affinity_to(&before.primary)
        && volume["spec"] == expected
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: Parameters = Parameters {
        interval: 10,
        replacement: 600,
    };

    fn class(provisioner: &str, parameters: Value) -> StorageClass {
        json_tree::from_value(json!({"provisioner": provisioner, "parameters": parameters}))
            .unwrap()
    }

    fn volume(record: Option<&VolumeReplication>, node: &str, path: &str) -> Value {
        let mut volume = json!({"metadata": {"name": "pvc-1"}, "spec": {
            "local": {"path": path}, "nodeAffinity": affinity_to(node)}});
        if let Some(record) = record {
            volume["metadata"]["annotations"] = json!({VOLUME_REPLICATION: record.to_text()});
        }
        volume
    }

    // docs/storage.md
    #[test]
    fn a_class_says_how_often_its_volumes_are_copied() {
        let cow = "mainstay.dev/local-cow";
        for (parameters, expected) in [
            (json!({}), Ok(None)),
            (json!({"replicas": "0"}), Ok(None)),
            (json!({"replicas": "1"}), Ok(Some((10, 600)))),
            (
                json!({"replicationIntervalSeconds": "2"}),
                Ok(Some((2, 600))),
            ),
            (
                json!({"replicas": "1", "replicationIntervalSeconds": "60"}),
                Ok(Some((60, 600))),
            ),
            (
                json!({"replicas": "1", "replicaReplacementSeconds": "60"}),
                Ok(Some((10, 60))),
            ),
            (json!({"replicaReplacementSeconds": "9"}), Err(())),
            (
                json!({"replicas": "0", "replicaReplacementSeconds": "60"}),
                Err(()),
            ),
            (json!({"replicationIntervalSeconds": "1"}), Err(())),
            (json!({"replicationIntervalSeconds": "soon"}), Err(())),
            (json!({"replicas": "2"}), Err(())),
        ] {
            let parsed = parameters_of_class(&class(cow, parameters.clone()));
            let parsed = parsed.map(|parsed| parsed.map(|all| (all.interval, all.replacement)));
            assert_eq!(parsed.map_err(drop), expected, "{parameters}");
        }
        let other = class("mainstay.dev/local", json!({"replicas": "1"}));
        assert_eq!(parameters_of_class(&other), Ok(None));
    }

    #[test]
    fn one_write_gives_the_volume_to_the_replicas_node() {
        let before = VolumeReplication {
            replica: Some("two".to_owned()),
            last: Some(5),
            ..VolumeReplication::new("one", PARAMETERS)
        };
        let promoting = VolumeReplication {
            epoch: 2,
            stage: ReplicationStage::Promoting,
            ..before.clone()
        };
        let promoted = VolumeReplication {
            primary: "two".to_owned(),
            replica: Some("one".to_owned()),
            stage: ReplicationStage::Promoted,
            last: None,
            ..promoting.clone()
        };
        let old = volume(Some(&before), "one", "/a");
        let replicated = volume(Some(&promoting), "one", "/a");
        let new = volume(Some(&promoted), "two", "/b");
        assert_eq!(check(&replicated, &old), Ok(()));
        assert!(is_promoted_by(&new, &replicated));
        // A promotion needs the stage in between, must go to the replica's node, and needs the record.
        assert!(check(&new, &old).is_err() && !is_promoted_by(&new, &old));
        assert!(!is_promoted_by(
            &volume(Some(&promoted), "three", "/b"),
            &replicated
        ));
        assert!(!is_promoted_by(&volume(None, "two", "/b"), &replicated));
        assert!(check(&volume(None, "one", "/a"), &old).is_err());
        // The epoch never decreases.
        assert!(check(&old, &replicated).is_err());
        let again = VolumeReplication {
            stage: ReplicationStage::Replicating,
            ..promoting
        };
        assert_eq!(
            check(&volume(Some(&again), "one", "/a"), &replicated),
            Ok(())
        );
    }

    #[test]
    fn the_replica_is_replaced_by_its_successor_in_the_next_epoch() {
        let before = VolumeReplication {
            replica: Some("two".to_owned()),
            successor: Some("three".to_owned()),
            last: Some(5),
            ..VolumeReplication::new("one", PARAMETERS)
        };
        let old = volume(Some(&before), "one", "/a");
        let checked = |new: &VolumeReplication| check(&volume(Some(new), "one", "/a"), &old);
        let after = before.replaced(Some("three"));
        assert_eq!((after.epoch, &*after.former), (2, &["two".to_owned()][..]));
        assert_eq!(checked(&after), Ok(()));
        let abandoned = before.replaced(Some("two"));
        assert_eq!(abandoned.former, ["three"]);
        assert_eq!(checked(&abandoned), Ok(()));
        for wrong in [
            VolumeReplication {
                epoch: 1,
                ..after.clone()
            },
            VolumeReplication {
                former: Vec::new(),
                ..after.clone()
            },
            before.replaced(Some("four")),
            before.replaced(None),
        ] {
            assert!(checked(&wrong).is_err(), "{wrong:?}");
        }
        // A record of an earlier program version lacks the replacement time.
        let mut text: Value = serde_json::from_str(&before.to_text()).unwrap();
        text.as_object_mut().unwrap().remove("replacementSeconds");
        let read: VolumeReplication = json_tree::from_value(text).unwrap();
        assert_eq!(read, before);
    }

    #[test]
    fn pods_use_a_volume_on_its_primary_alone() {
        let mut record = VolumeReplication::new("one", PARAMETERS);
        assert_eq!(record.refusal("one"), None);
        assert!(record.refusal("two").is_some());
        record.stage = ReplicationStage::Promoting;
        record.replica = Some("two".to_owned());
        let promoted = "the volume is being promoted on node \"two\", because node \"one\" is lost";
        assert_eq!(record.refusal("one").as_deref(), Some(promoted));
        record.primary = "two".to_owned();
        record.stage = ReplicationStage::Promoted;
        record.recovery = Some(Recovery {
            from: "one".to_owned(),
            time: 1,
        });
        assert_eq!(record.refusal("two").as_deref(), Some(promoted));
        record.stage = ReplicationStage::Replicating;
        assert_eq!(record.refusal("two"), None);
    }
}
