//! The pods that may still have processes, mounts or networks in the kernel: each has a directory below `sandboxes`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::further_nodes;

/// The number of names in a list of pods; further pods are only counted.
const LISTED_MAX: usize = 8;

/// A pod with a sandbox directory, whether or not its processes run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftPod {
    /// `name`, or `namespace/name` outside of `default`; the uid if the pod has no directory below `pods`.
    pub name: String,
    /// UID of the pod, which is the name of its sandbox directory.
    pub uid: String,
    /// The pod's directory below `pods`; `None` if it does not exist.
    pub directory: Option<PathBuf>,
}

/// The pods of a running server, or the leftover pods of a killed server, sorted by name.
pub fn pods(data: &Path) -> Vec<LeftPod> {
    let directories: Vec<PathBuf> = fs::read_dir(data.join("pods"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let mut pods: Vec<LeftPod> = fs::read_dir(data.join("sandboxes"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|uid| pod_of_uid(uid, &directories))
        .collect();
    pods.sort_unstable();
    pods
}

/// The leftover pods of all nodes that keep their data below this directory.
pub fn on_all_nodes(data: &Path) -> Vec<LeftPod> {
    let further = further_nodes(data);
    let mut all: Vec<LeftPod> = further.iter().flat_map(|node| pods(node)).collect();
    all.extend(pods(data));
    all.sort_unstable();
    all
}

fn pod_of_uid(uid: String, directories: &[PathBuf]) -> LeftPod {
    for directory in directories {
        let name = directory.file_name().and_then(|name| name.to_str());
        let mut parts = name.unwrap_or_default().split('_');
        let parts = (parts.next(), parts.next(), parts.next());
        if let (Some(namespace), Some(name), Some(pod_uid)) = parts
            && pod_uid == uid
        {
            let name = match namespace {
                "default" => name.to_owned(),
                namespace => format!("{namespace}/{name}"),
            };
            cov_mark::hit!(findings_u12);
            return LeftPod {
                name,
                uid,
                directory: Some(directory.clone()),
            };
        }
    }
    LeftPod {
        name: format!("uid {uid}"),
        uid,
        directory: None,
    }
}

/// A number of pods in words: `1 pod`, `2 pods`.
pub fn counted(pods: usize) -> String {
    match pods {
        1 => "1 pod".to_owned(),
        pods => format!("{pods} pods"),
    }
}

/// The first names, and the number of further pods.
pub fn listed(pods: &[LeftPod]) -> String {
    let names: Vec<&str> = pods
        .iter()
        .take(LISTED_MAX)
        .map(|pod| pod.name.as_str())
        .collect();
    let names = names.join(", ");
    match pods.len().saturating_sub(LISTED_MAX) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings U12.
    #[test]
    fn pods_that_are_left_are_named() {
        cov_mark::check!(findings_u12);
        let data = tempfile::tempdir().unwrap();
        for path in [
            "pods/default_web-0_u1",
            "pods/shop_db-0_u2",
            "pods/shop_gone_u9",
            "sandboxes/u1",
            "sandboxes/u2",
            "sandboxes/u3",
        ] {
            fs::create_dir_all(data.path().join(path)).unwrap();
        }
        let pods_left = pods(data.path());
        assert_eq!(listed(&pods_left), "shop/db-0, uid u3, web-0");
        assert_eq!(counted(pods_left.len()), "3 pods");
        let many: Vec<LeftPod> = std::iter::repeat_n(pods_left[0].clone(), 10).collect();
        assert!(listed(&many).ends_with("shop/db-0 and 2 more"));
        assert!(pods(Path::new("/nonexistent")).is_empty());
    }
}
