//! The changes of ConfigMaps as etcd itself reports them to `etcdctl watch --write-out=fields`.

use std::collections::BTreeMap;

use end_to_end::background::BackgroundProgram;
use end_to_end::etcd::Etcd;
use end_to_end::{Network, wait_for};

use super::changes::Changes;

/// The prefix of the keys of ConfigMaps in the namespace `default`.
const PREFIX: &str = "/mainstay/data//registry/configmaps/default/";

/// The changes after a revision, each with its own revision. The history is read in parts, because the servers compact
/// it.
#[derive(Debug)]
pub struct EtcdHistory {
    read_to: u64,
    /// The changes by revision.
    pub changes: BTreeMap<u64, Changes>,
}

impl EtcdHistory {
    pub fn after(revision: u64) -> Self {
        Self {
            read_to: revision,
            changes: BTreeMap::new(),
        }
    }

    /// Continues to read, from a machine on the members' link, up to a revision with a change.
    ///
    /// # Panics
    ///
    /// etcd does not report the revision, or reports a change twice or out of order.
    pub fn read_to(&mut self, revision: u64, etcd: &Etcd, machine: &Network) {
        if revision <= self.read_to {
            return;
        }
        let start = || etcd.watch(machine, PREFIX, self.read_to + 1);
        let mut watch = start();
        let further = wait_for(&format!("revision {revision} of etcd"), 120, || {
            let further = changes(&watch);
            if further.contains_key(&revision) {
                return Ok(further);
            }
            if watch.has_ended() {
                watch = start();
            }
            Err(further.into_iter().next_back())
        });
        self.read_to = further.keys().next_back().copied().unwrap_or_default();
        self.changes.extend(further);
    }
}

fn changes(watch: &BackgroundProgram) -> BTreeMap<u64, Changes> {
    let mut changes = BTreeMap::<u64, Changes>::new();
    let (mut is_deletion, mut name, mut revision) = (false, String::new(), 0);
    let printed = watch.output();
    // The last line may be incomplete.
    let complete = printed.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for (field, content) in complete.lines().filter_map(|line| line.split_once(" : ")) {
        match field.trim_matches('"') {
            "Type" => is_deletion = content == "DELETE",
            "Key" => {
                let key = content.trim_matches('"');
                name = key.strip_prefix(PREFIX).expect("the prefix").to_owned();
            }
            "ModRevision" => revision = content.parse().expect("a revision"),
            "Value" => {
                let newest = changes.keys().next_back().copied().unwrap_or_default();
                assert!(newest < revision, "{revision} after {newest}");
                let value = (!is_deletion).then(|| format!("{}@{revision}", value(content)));
                changes.insert(revision, Changes::from([(name.clone(), value)]));
            }
            _ => {}
        }
    }
    changes
}

/// The content of a ConfigMap in a quoted value of etcd, as [`super::watchers`] has it.
fn value(quoted: &str) -> &str {
    let content = quoted.split_once(r#"\"data\":{\"value\":\""#);
    let value = content.and_then(|(_, rest)| rest.split_once(r#"\""#));
    value.map_or("", |(value, _)| value)
}
