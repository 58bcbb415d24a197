//! Sequences of watches, and the check that none has lost, repeated or reordered a change.

use std::collections::BTreeMap;

/// Keys with their values.
pub type Pairs = BTreeMap<String, String>;

/// The changes of a revision: a key with its value, or without it after a deletion.
pub type Changes = BTreeMap<String, Option<String>>;

/// A thing that a watcher has seen.
#[derive(Clone, Debug)]
pub enum WatchEntry {
    /// A list, which a watch begins with.
    Listed(u64, Pairs),
    /// The changes of a revision, which are one event.
    Changed(u64, Changes),
    /// A mark: everything up to this revision has been delivered.
    Progress(u64),
}

/// The states of all revisions that changed something, from the first one.
#[derive(Debug, Default)]
pub struct Truth(pub BTreeMap<u64, Pairs>);

impl Truth {
    /// The changes of each revision that changed something.
    pub fn changes(&self) -> BTreeMap<u64, Changes> {
        let mut before = &Pairs::new();
        let mut all = BTreeMap::new();
        for (revision, now) in &self.0 {
            let deleted = before.keys().filter(|key| !now.contains_key(*key));
            let mut changes: Changes = deleted.map(|key| (key.clone(), None)).collect();
            for (key, value) in now {
                if before.get(key) != Some(value) {
                    changes.insert(key.clone(), Some(value.clone()));
                }
            }
            if !changes.is_empty() {
                all.insert(*revision, changes);
            }
            before = now;
        }
        all
    }

    /// Checks that a watcher has seen all changes up to a revision, each once, in order.
    ///
    /// *Errors.* The first difference.
    pub fn check(&self, observed: &[WatchEntry], end: u64) -> Result<(), String> {
        let changes = self.changes();
        let mut at = 0;
        for (number, one) in observed.iter().enumerate() {
            let next = changes.range(at + 1..).next();
            let is_right = match one {
                WatchEntry::Listed(revision, pairs) => {
                    let state = self.0.range(..=revision).next_back();
                    *revision >= at && state.map(|(_, state)| state) == Some(pairs)
                }
                WatchEntry::Changed(revision, changes) => next == Some((revision, changes)),
                WatchEntry::Progress(revision) => {
                    *revision >= at && next.is_none_or(|(next, _)| next > revision)
                }
            };
            let (WatchEntry::Listed(revision, _)
            | WatchEntry::Changed(revision, _)
            | WatchEntry::Progress(revision)) = one;
            if !is_right {
                return Err(format!(
                    "number {number} is {one:?} after revision {at}, and the next change is {next:?}"
                ));
            }
            at = *revision;
        }
        match at >= end {
            true => Ok(()),
            false => Err(format!("the last revision is {at}, and not {end}")),
        }
    }
}
