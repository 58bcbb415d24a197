//! The end of a CSI volume's use on a node.
//!
//! **Goal**: a volume is published for its present pods only, and staged only while it is published.
//! **Guarantees**: a volume is unstaged after it was unpublished for all pods, as the CSI
//! specification demands, and never while a present pod has it.

/// A call to the driver. A step is taken only if the one before it has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `NodeUnpublishVolume` for a pod, by its uid.
    Unpublish {
        /// The uid.
        pod: String,
    },
    /// `NodeUnstageVolume`.
    Unstage,
}

/// The steps for a volume that was published for these pods, and may be staged. Pods that do not live
/// any more, or never did, lose it. Total.
pub fn plan(published_for: &[&str], is_staged: bool, lives: impl Fn(&str) -> bool) -> Vec<Step> {
    let gone = published_for.iter().filter(|pod| !lives(pod));
    let mut steps: Vec<Step> = gone
        .map(|pod| Step::Unpublish {
            pod: (*pod).to_owned(),
        })
        .collect();
    if is_staged && steps.len() == published_for.len() {
        steps.push(Step::Unstage);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pods: &[&str], is_staged: bool, lives: &[&str]) -> Vec<Step> {
        plan(pods, is_staged, |pod| lives.contains(&pod))
    }

    #[test]
    fn the_last_pod_takes_the_stage_along() {
        let unpublish = |pod: &str| Step::Unpublish {
            pod: pod.to_owned(),
        };
        assert_eq!(of(&["a", "b"], true, &["a", "b"]), []);
        assert_eq!(of(&["a", "b"], true, &["b"]), [unpublish("a")]);
        let all = [unpublish("a"), unpublish("b"), Step::Unstage];
        assert_eq!(of(&["a", "b"], true, &["c"]), all);
        assert_eq!(of(&["a"], false, &[]), [unpublish("a")]);
        // A kill between staging and publishing.
        assert_eq!(of(&[], true, &["a"]), [Step::Unstage]);
        assert_eq!(of(&[], false, &[]), []);
    }
}
