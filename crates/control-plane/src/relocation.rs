//! Updates objects after a move of the data directory. Nodes, volumes and pods contain the host name and the
//! path of their data. When a data directory was moved, or restored from a backup elsewhere, these are
//! replaced before any part starts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use json_tree::Value;
use kube_api_server::rewrite::{Rewrite, rewrite};
use mvcc_store::Store;
use resource_kinds::annotations::{VOLUME_MOVE, VOLUME_REPLICATION};
use resource_kinds::labels::HOSTNAME;
use resource_kinds::namespaces::NODE_LEASES;

/// The scheduler's annotation on claims.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// A data directory and the name of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataLocation {
    /// The absolute path of the directory.
    pub path: PathBuf,
    /// The host's name, which is also the node's name.
    pub host: String,
}

/// A move of the data directory; without a move, `from` and `to` are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The directory and the host of the previous start.
    pub from: DataLocation,
    /// The directory and the host of this start.
    pub to: DataLocation,
}

impl Relocation {
    /// Updates the stored objects, if anything has changed. Returns the number of changed objects.
    pub async fn apply(&self, store: &dyn Store) -> Result<usize> {
        if self.from == self.to {
            return Ok(0);
        }
        let changed = rewrite(store, |object| self.change(object)).await;
        changed.with_context(|| {
            let (from, to) = (&self.from, &self.to);
            format!(
                "bring the objects from {} on {} to {} on {}",
                from.path.display(),
                from.host,
                to.path.display(),
                to.host
            )
        })
    }

    /// Replaces path and host in one object.
    pub fn change(&self, object: &mut Value) -> Rewrite {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let is_old_node = object["metadata"]["name"] == self.from.host.as_str();
        let moves = self.from.host != self.to.host;
        let mut changed = false;
        match kind.as_str() {
            // The contents of these objects belong to the users.
            "ConfigMap" | "Secret" | "Event" => return Rewrite::Keep,
            // The agent creates the Lease of the node again.
            "Lease" if is_old_node && object["metadata"]["namespace"] == NODE_LEASES => {
                return if moves {
                    Rewrite::Remove
                } else {
                    Rewrite::Keep
                };
            }
            "Node" | "CSINode" if is_old_node && moves => {
                object["metadata"]["name"] = self.to.host.as_str().into();
                changed = true;
            }
            "PersistentVolume" => {
                for path in ["/spec/local/path", "/spec/hostPath/path"] {
                    let path = object.pointer_mut(path);
                    changed |= path.is_some_and(|path| self.change_path(path));
                }
                changed |= self.change_record(object, VOLUME_MOVE, &["from", "to"]);
                let nodes = ["primary", "replica", "successor", "former"];
                changed |= self.change_record(object, VOLUME_REPLICATION, &nodes);
            }
            _ => {}
        }
        if moves {
            changed |= self.change_host(object);
        }
        match changed {
            true => Rewrite::Store,
            false => Rewrite::Keep,
        }
    }

    /// Replaces the host in the record of a volume's move to another node, or of its copies: the fields
    /// `nodes` contain one node or several.
    fn change_record(&self, volume: &mut Value, key: &str, nodes: &[&str]) -> bool {
        let annotations = volume.pointer_mut("/metadata/annotations");
        let Some(text) = annotations.and_then(|all| all.get_mut(key)) else {
            return false;
        };
        let record = text
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok());
        let Some(mut record): Option<Value> = record else {
            return false;
        };
        let mut changed = record
            .get_mut("path")
            .is_some_and(|path| self.change_path(path));
        for field in nodes {
            let named = match record.get_mut(*field) {
                Some(Value::Array(several)) => &mut several[..],
                Some(one) => std::slice::from_mut(one),
                None => &mut [],
            };
            for node in named {
                changed |= self.change_name(node);
            }
        }
        if changed {
            *text = record.to_string().into();
        }
        changed
    }

    fn change_path(&self, path: &mut Value) -> bool {
        let inside = path.as_str().map(Path::new);
        let inside = inside.and_then(|path| path.strip_prefix(&self.from.path).ok());
        let Some(now) = inside.map(|inside| self.to.path.join(inside)) else {
            return false;
        };
        let now = Value::from(now.to_string_lossy().into_owned());
        std::mem::replace(path, now.clone()) != now
    }

    /// Replaces the host's name in the fields that contain a node's name.
    fn change_host(&self, value: &mut Value) -> bool {
        match value {
            Value::Array(items) => items
                .iter_mut()
                .fold(false, |changed, item| self.change_host(item) | changed),
            Value::Object(map) => {
                let key = map.get("key").and_then(Value::as_str);
                let names_nodes = key == Some(HOSTNAME) || key == Some("metadata.name");
                let mut changed = false;
                for (name, field) in map.iter_mut() {
                    changed |= match (name.as_str(), &mut *field) {
                        ("values", Value::Array(values)) if names_nodes => values
                            .iter_mut()
                            .fold(false, |changed, value| self.change_name(value) | changed),
                        ("nodeName" | HOSTNAME | SELECTED_NODE, name) => self.change_name(name),
                        ("snapshotHandle", handle) => self.change_handle(handle),
                        // The values below `managedFields` are field paths, not names.
                        ("managedFields", _) => false,
                        (_, inner) => self.change_host(inner),
                    };
                }
                changed
            }
            _ => false,
        }
    }

    fn change_name(&self, value: &mut Value) -> bool {
        let is_old = *value == self.from.host.as_str();
        if is_old {
            *value = self.to.host.as_str().into();
        }
        is_old
    }

    /// Replaces the node in a snapshot handle `NODE/SNAPSHOT`.
    fn change_handle(&self, value: &mut Value) -> bool {
        let rest = value.as_str().and_then(|text| {
            let rest = text.strip_prefix(self.from.host.as_str())?;
            rest.starts_with('/').then(|| rest.to_owned())
        });
        let Some(rest) = rest else { return false };
        *value = format!("{}{rest}", self.to.host).into();
        true
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn location(path: &str, host: &str) -> DataLocation {
        DataLocation {
            path: path.into(),
            host: host.to_owned(),
        }
    }

    #[track_caller]
    fn check(before: Value, expected: Rewrite, after: Value) {
        let relocation = Relocation {
            from: location("/old", "a"),
            to: location("/new/place", "b"),
        };
        let mut object = before;
        assert_eq!(relocation.change(&mut object), expected);
        assert_eq!(object, after);
    }

    /// Findings U10: volumes are found at their new path on their new host.
    #[test]
    fn a_volume_names_its_place() {
        let volume = |path: &str, host: &str| {
            json!({"kind": "PersistentVolume", "metadata": {"name": "pvc-1"}, "spec": {
                "local": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}})
        };
        let old = volume("/old/volumes/pvc-1", "a");
        check(old, Rewrite::Store, volume("/new/place/volumes/pvc-1", "b"));
        let other = volume("/older/disk", "c");
        check(other.clone(), Rewrite::Keep, other);
    }

    #[test]
    fn the_record_of_a_move_names_both_places() {
        let volume = |from: &str, path: &str| {
            let record = json!({"from": from, "to": "c", "path": path}).to_string();
            json!({"kind": "PersistentVolume", "metadata": {"name": "pvc-1",
                "annotations": {VOLUME_MOVE: record}}, "spec": {}})
        };
        let old = volume("a", "/old/nodes/2/volumes/pvc-1");
        let new = volume("b", "/new/place/nodes/2/volumes/pvc-1");
        check(old, Rewrite::Store, new);
        let other = volume("d", "/older");
        check(other.clone(), Rewrite::Keep, other);
        let replicated = |primary: &str| {
            let record =
                json!({"primary": primary, "replica": "c", "former": ["d", primary]}).to_string();
            json!({"kind": "PersistentVolume", "metadata": {"name": "pvc-1",
                "annotations": {VOLUME_REPLICATION: record}}, "spec": {}})
        };
        check(replicated("a"), Rewrite::Store, replicated("b"));
    }

    #[test]
    fn nodes_and_what_names_them_have_another_name() {
        let node = |host: &str| {
            json!({"kind": "Node", "metadata": {"name": host,
                "labels": {"kubernetes.io/hostname": host, "disk": "fast"}}})
        };
        check(node("a"), Rewrite::Store, node("b"));
        check(node("c"), Rewrite::Keep, node("c"));
        let pod = |host: &str| {
            json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": host,
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchFields": [
                        {"key": "metadata.name", "operator": "In", "values": [host]}]}]}}}}})
        };
        check(pod("a"), Rewrite::Store, pod("b"));
        let lease =
            json!({"kind": "Lease", "metadata": {"name": "a", "namespace": "kube-node-lease"}});
        check(lease.clone(), Rewrite::Remove, lease);
        let content = |host: &str| {
            json!({"kind": "VolumeSnapshotContent", "metadata": {"name": "x"},
                "status": {"snapshotHandle": format!("{host}/snapshot-1")}})
        };
        check(content("a"), Rewrite::Store, content("b"));
    }

    #[test]
    fn what_users_wrote_stays() {
        let config = json!({"kind": "ConfigMap", "metadata": {"name": "a"},
            "data": {"nodeName": "a", "path": "/old"}});
        check(config.clone(), Rewrite::Keep, config);
    }
}
