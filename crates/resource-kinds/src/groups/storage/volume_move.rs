//! The record of a local volume's move to another node, which is an annotation of the PersistentVolume.
//!
//! The record contains the progress of the move; each write replaces the previous record under the volume's
//! resourceVersion. The write of [`MoveStage::Placed`] changes the volume's node affinity and path together with the
//! record (KEP-5381 makes the affinity mutable; here only this write may change it).

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::well_known::annotations::{VOLUME_MOVE, VOLUME_REPLICATION};
use crate::well_known::labels::HOSTNAME;

/// Maximum length of an id.
const ID_LENGTH_MAX: usize = 32;

/// The progress of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MoveStage {
    /// A user has requested the move.
    Requested,
    /// The target node has reserved space for the data, and gets a first copy while the pods still run. Only volumes
    /// with snapshots have this stage.
    Preparing,
    /// The target node has reserved space for the data, or has a first copy of it; the pod that uses the claim must
    /// stop.
    Stopping,
    /// The directory is renamed on the source node, and its files are copied.
    Copying,
    /// The copy is complete and on the disk of the target node.
    Arrived,
    /// The volume belongs to the target node. Its directory gets the final name there, and the old files are removed.
    Placed,
    /// The move is complete: the data is only on the target node.
    Moved,
    /// The move is abandoned; the directory gets its previous name back.
    Abandoned,
    /// The abandoned move has ended: the data is on the source node.
    Failed,
}

impl MoveStage {
    /// Whether the move has ended and another move may be requested.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Moved | Self::Failed)
    }

    /// Whether no pod with the volume may be scheduled: the data is between two nodes, or will be.
    pub fn holds_pods(self) -> bool {
        matches!(
            self,
            Self::Requested | Self::Stopping | Self::Copying | Self::Arrived
        )
    }

    /// Whether the move may still be abandoned, because the volume belongs to the source node.
    pub fn is_before_placed(self) -> bool {
        self == Self::Preparing || self.holds_pods()
    }

    /// Whether a record in the stage `next` may follow a record in this stage.
    fn allows(self, next: Self) -> bool {
        use MoveStage::{
            Abandoned, Arrived, Copying, Failed, Moved, Placed, Preparing, Requested, Stopping,
        };
        match next {
            Requested => false,
            Preparing => self == Requested,
            Stopping => matches!(self, Requested | Preparing),
            Copying => self == Stopping,
            Arrived => self == Copying,
            Placed => self == Arrived,
            Moved => self == Placed,
            Abandoned => self.is_before_placed(),
            Failed => self == Abandoned,
        }
    }
}

/// The record of a move, an annotation of the PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMove {
    /// The name of this move: letters and digits; different from the name of every other move.
    pub id: String,
    /// The node that has the data when the move starts.
    pub from: String,
    /// The node that gets the data.
    pub to: String,
    pub stage: MoveStage,
    /// The size of the data in bytes; `None` until it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The path of the volume on the target node, from `Arrived` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The event for which the move waits, or the reason why it was abandoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether a user has cancelled the move.
    #[serde(default, skip_serializing_if = "is_not")]
    pub cancelled: bool,
}

fn is_not(flag: &bool) -> bool {
    !flag
}

impl VolumeMove {
    /// The record of a requested move.
    pub fn request(id: &str, from: &str, to: &str) -> Self {
        Self {
            id: id.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            stage: MoveStage::Requested,
            bytes: None,
            path: None,
            message: None,
            cancelled: false,
        }
    }

    /// The record of a volume; `None` for a volume that was never moved, and for an invalid annotation.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let text = volume.metadata.annotations.as_ref()?.get(VOLUME_MOVE)?;
        serde_json::from_str(text).ok()
    }

    pub fn to_text(&self) -> String {
        // The record contains only texts, numbers and words, so the serialisation cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A copy of the record in another stage.
    #[must_use]
    pub fn in_stage(&self, stage: MoveStage) -> Self {
        Self {
            stage,
            message: None,
            ..self.clone()
        }
    }

    /// A copy of the record, abandoned for a reason.
    #[must_use]
    pub fn abandoned(&self, message: impl Into<String>) -> Self {
        Self {
            stage: MoveStage::Abandoned,
            message: Some(message.into()),
            ..self.clone()
        }
    }

    fn is_well_formed(&self) -> bool {
        let id = self.id.bytes();
        let plain = id.clone().all(|byte| byte.is_ascii_alphanumeric());
        plain
            && (1..=ID_LENGTH_MAX).contains(&id.len())
            && !self.from.is_empty()
            && !self.to.is_empty()
            && self.from != self.to
    }

    fn is_same_move(&self, other: &Self) -> bool {
        (&self.id, &self.from, &self.to) == (&other.id, &other.from, &other.to)
    }
}

/// Whether pods with the volume must wait for the end of its move.
pub fn holds_pods(volume: &PersistentVolume) -> bool {
    VolumeMove::of(volume).is_some_and(|record| record.stage.holds_pods())
}

/// Whether the name of the volume's directory differs, or may differ, from the volume's name.
pub fn is_under_way(volume: &PersistentVolume) -> bool {
    VolumeMove::of(volume).is_some_and(|record| !record.stage.is_final())
}

/// The node affinity that binds a local volume to a node.
pub fn affinity_to(node: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": HOSTNAME, "operator": "In", "values": [node]},
    ]}]}})
}

fn text_of(volume: &Value) -> Option<&str> {
    volume["metadata"]["annotations"][VOLUME_MOVE].as_str()
}

fn record_of(volume: &Value) -> Option<VolumeMove> {
    serde_json::from_str(text_of(volume)?).ok()
}

/// The reason why a write of the record is refused.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum MoveRecordError {
    #[error("a move that is in progress must be ended first")]
    Removed,
    #[error("is not the record of a move: {0}")]
    Json(String),
    #[error("must have an id of letters and digits and two different nodes")]
    Malformed,
    #[error("a volume with a replica is not moved")]
    Replicated,
    #[error("must have another id than the move before")]
    SameId,
    #[error("a move begins with the stage Requested")]
    FirstStage,
    #[error("the move {id} to {node} is in progress")]
    InProgress { id: String, node: String },
    #[error("the stage {new:?} does not follow {old:?}")]
    Stage { new: MoveStage, old: MoveStage },
}

/// Checks a write of the record: a new request, or the next stage of the present move. `old` is null for a new
/// volume.
pub(crate) fn check(volume: &Value, old: &Value) -> Result<(), MoveRecordError> {
    if text_of(volume) == text_of(old) {
        return Ok(());
    }
    let old = record_of(old);
    let open = old.as_ref().filter(|old| !old.stage.is_final());
    let Some(text) = text_of(volume) else {
        return match open {
            Some(_) => Err(MoveRecordError::Removed),
            None => Ok(()),
        };
    };
    let new: VolumeMove =
        serde_json::from_str(text).map_err(|error| MoveRecordError::Json(error.to_string()))?;
    if !new.is_well_formed() {
        return Err(MoveRecordError::Malformed);
    }
    let is_replicated = volume["metadata"]["annotations"][VOLUME_REPLICATION].is_string();
    match open {
        None if new.stage == MoveStage::Requested && is_replicated => {
            Err(MoveRecordError::Replicated)
        }
        None if new.stage == MoveStage::Requested => {
            let again = old.as_ref().is_some_and(|old| old.id == new.id);
            match again {
                true => Err(MoveRecordError::SameId),
                false => Ok(()),
            }
        }
        // A user may create a volume from the manifest of a volume that was moved.
        None if old.is_none() && new.stage.is_final() => Ok(()),
        None => Err(MoveRecordError::FirstStage),
        Some(old) if !old.is_same_move(&new) => Err(MoveRecordError::InProgress {
            id: old.id.clone(),
            node: old.to.clone(),
        }),
        Some(old) if old.stage == new.stage || old.stage.allows(new.stage) => Ok(()),
        Some(old) => Err(MoveRecordError::Stage {
            new: new.stage,
            old: old.stage,
        }),
    }
}

/// Whether a write assigns the volume to the target node: the stage is `Placed`, and the affinity and the path are
/// those of the record. No other part of the volume source may change.
pub(crate) fn is_placed_by(volume: &Value, old: &Value) -> bool {
    let (Some(new), Some(before)) = (record_of(volume), record_of(old)) else {
        return false;
    };
    let is_step = before.stage == MoveStage::Arrived
        && new.stage == MoveStage::Placed
        && new.is_same_move(&before)
        && new.path == before.path
        && new
            .path
            .as_deref()
            .is_some_and(|path| path.starts_with('/'));
    let mut expected = old["spec"].clone();
    expected["nodeAffinity"] = affinity_to(&new.to);
    expected["local"]["path"] = json!(new.path);
    is_step
        && old["spec"]["local"].is_object()
        && old["spec"]["nodeAffinity"] == affinity_to(&new.from)
        && volume["spec"] == expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(record: Option<&VolumeMove>, node: &str, path: &str) -> Value {
        let mut volume = json!({"metadata": {"name": "pvc-1"}, "spec": {
            "local": {"path": path}, "nodeAffinity": affinity_to(node),
            "accessModes": ["ReadWriteOnce"]}});
        if let Some(record) = record {
            volume["metadata"]["annotations"] = json!({VOLUME_MOVE: record.to_text()});
        }
        volume
    }

    fn at(stage: MoveStage) -> VolumeMove {
        let request = VolumeMove::request("a1", "one", "two");
        VolumeMove {
            path: (stage >= MoveStage::Arrived).then(|| "/b/pvc-1".to_owned()),
            ..request.in_stage(stage)
        }
    }

    const ALL: [MoveStage; 9] = [
        MoveStage::Requested,
        MoveStage::Preparing,
        MoveStage::Stopping,
        MoveStage::Copying,
        MoveStage::Arrived,
        MoveStage::Placed,
        MoveStage::Moved,
        MoveStage::Abandoned,
        MoveStage::Failed,
    ];

    // statefulset.md 11.3
    #[test]
    fn a_record_takes_one_step_at_a_time() {
        use MoveStage::{
            Abandoned, Arrived, Copying, Failed, Moved, Placed, Preparing, Requested, Stopping,
        };
        let steps = [
            (Requested, Preparing),
            (Requested, Stopping),
            (Preparing, Stopping),
            (Preparing, Abandoned),
            (Stopping, Copying),
            (Copying, Arrived),
            (Arrived, Placed),
            (Placed, Moved),
            (Requested, Abandoned),
            (Stopping, Abandoned),
            (Copying, Abandoned),
            (Arrived, Abandoned),
            (Abandoned, Failed),
        ];
        for before in ALL {
            for after in ALL {
                let (old, new) = (at(before), at(after));
                let old = volume(Some(&old), "one", "/a/pvc-1");
                let new = volume(Some(&new), "one", "/a/pvc-1");
                let allowed = before == after || steps.contains(&(before, after));
                assert_eq!(check(&new, &old).is_ok(), allowed, "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn a_move_begins_with_a_request_of_its_own() {
        let none = volume(None, "one", "/a");
        for stage in ALL {
            let new = volume(Some(&at(stage)), "one", "/a");
            let begins = stage == MoveStage::Requested || stage.is_final();
            assert_eq!(check(&new, &none).is_ok(), begins, "{stage:?}");
            // The record of a move in progress can neither be removed, nor be replaced by another request.
            assert_eq!(check(&none, &new).is_ok(), stage.is_final());
            let other = VolumeMove::request("b2", "one", "two");
            let other = volume(Some(&other), "one", "/a");
            assert_eq!(check(&other, &new).is_ok(), stage.is_final());
        }
        let odd = [
            VolumeMove::request("../x", "one", "two"),
            VolumeMove::request("", "one", "two"),
            VolumeMove::request("a1", "one", "one"),
            VolumeMove::request("a1", "", "two"),
        ];
        for record in odd {
            let new = volume(Some(&record), "one", "/a");
            assert!(check(&new, &none).is_err(), "{record:?}");
        }
        let mut text = none.clone();
        text["metadata"]["annotations"] = json!({VOLUME_MOVE: "{}"});
        assert!(check(&text, &none).is_err());
    }

    #[test]
    fn one_write_changes_the_place_of_the_volume() {
        let arrived = volume(Some(&at(MoveStage::Arrived)), "one", "/a/pvc-1");
        let placed = volume(Some(&at(MoveStage::Placed)), "two", "/b/pvc-1");
        assert!(is_placed_by(&placed, &arrived));
        // The assignment needs the record, must go to the recorded node, and must change nothing else.
        assert!(!is_placed_by(&volume(None, "two", "/b/pvc-1"), &arrived));
        let elsewhere = volume(Some(&at(MoveStage::Placed)), "three", "/b/pvc-1");
        assert!(!is_placed_by(&elsewhere, &arrived));
        let other_path = volume(Some(&at(MoveStage::Placed)), "two", "/etc");
        assert!(!is_placed_by(&other_path, &arrived));
        let mut more = placed.clone();
        more["spec"]["accessModes"] = json!(["ReadWriteMany"]);
        assert!(!is_placed_by(&more, &arrived));
        let copying = volume(Some(&at(MoveStage::Copying)), "one", "/a/pvc-1");
        assert!(!is_placed_by(&placed, &copying));
        assert!(!is_placed_by(&placed, &volume(None, "one", "/a/pvc-1")));
        let again = volume(Some(&at(MoveStage::Placed)), "one", "/a/pvc-1");
        assert!(!is_placed_by(&arrived, &again));
    }
}
