//! The other instances of this machine, including stopped ones: their Service ranges must still be free
//! when they start again.
//!
//! A list for the whole machine names the range file of each instance. The list is read and written under
//! the lock that serialises the choice of ranges. If the list is lost, an instance may choose the range of
//! a stopped instance, but no data is lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use host_kernel::durable_file::{self, Durability};

use crate::ranges::{self, UsedRange};

/// The file that lists the range file of each instance of the machine, one per line.
pub const INSTANCES: &str = "/var/lib/mainstay-instances";

pub(crate) struct Neighbours {
    list: PathBuf,
    local: PathBuf,
    others: BTreeSet<PathBuf>,
}

impl Neighbours {
    /// Reads the list. `local` is the range file of this instance. Instances whose range file does not exist
    /// are removed.
    pub(crate) fn read(list: &Path, local: &Path) -> Self {
        let local = std::path::absolute(local).unwrap_or_else(|_| local.to_owned());
        let others = std::fs::read_to_string(list)
            .unwrap_or_default()
            .lines()
            .map(PathBuf::from)
            .filter(|path| *path != local && path.exists())
            .collect();
        Self {
            list: list.to_owned(),
            local,
            others,
        }
    }

    /// The ranges of the other instances.
    pub(crate) fn ranges(&self) -> Vec<UsedRange> {
        let of = |path: &PathBuf| {
            let ranges = ranges::read(path).ok().flatten()?;
            let by = format!("the instance of {}", path.display());
            Some([ranges.pod, ranges.service].map(|range| UsedRange {
                range,
                by: by.clone(),
            }))
        };
        // A cluster with several nodes has a range file in the directory of its first node's range file.
        let is_other = |path: &&PathBuf| path.parent() != self.local.parent();
        let others = self.others.iter().filter(is_other);
        others.filter_map(of).flatten().collect()
    }

    /// Writes the list, including this instance. A failure is logged, because the machine can still run
    /// pods.
    pub(crate) fn write(&self) {
        if let Err(error) = self.try_write() {
            let list = self.list.display();
            tracing::warn!(%list, %error, "cannot keep the list of instances");
        }
    }

    fn try_write(&self) -> std::io::Result<()> {
        let mut text = String::new();
        for path in self.others.iter().chain([&self.local]) {
            if let Some(path) = path.to_str().filter(|path| !path.contains('\n')) {
                text.push_str(path);
                text.push('\n');
            }
        }
        durable_file::replace(&self.list, text.as_bytes(), 0o644, Durability::PageCache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_remembered_until_their_data_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        let file = |name: &str| directory.path().join(name).join("ranges.json");
        for name in ["a", "b", "c"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let ranges = r#"{"pod":"10.244.3.0/24","service":"10.99.0.0/16"}"#;
        std::fs::write(file("a"), ranges).unwrap();
        Neighbours::read(&list, &file("a")).write();
        assert!(Neighbours::read(&list, &file("a")).ranges().is_empty());
        let neighbours = Neighbours::read(&list, &file("b"));
        let beside_a = Neighbours::read(&list, &file("a").with_file_name("cluster.json"));
        assert!(beside_a.ranges().is_empty() && beside_a.others.contains(&file("a")));
        let texts: Vec<String> = neighbours
            .ranges()
            .iter()
            .map(|t| t.range.to_string())
            .collect();
        assert_eq!(texts, ["10.244.3.0/24", "10.99.0.0/16"]);
        std::fs::write(file("b"), "damaged").unwrap();
        neighbours.write();
        assert_eq!(Neighbours::read(&list, &file("c")).ranges().len(), 2);
        std::fs::remove_file(file("a")).unwrap();
        let remaining = Neighbours::read(&list, &file("c"));
        assert_eq!(remaining.others, BTreeSet::from([file("b")]));
        assert!(remaining.ranges().is_empty());
    }
}
