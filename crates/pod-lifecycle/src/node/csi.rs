//! The end of a CSI volume's use on a node.
//!
//! **Goal**: a volume is published for its present pods only, and staged only while it is published.
//! **Guarantees**: a volume is unstaged after it was unpublished for all pods, as the CSI specification
//! requires, and never while a present pod uses it.

/// A call to the driver. A step is executed only if the step before has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsiStep {
    /// `NodeUnpublishVolume` for a pod.
    Unpublish {
        /// The UID of the pod.
        pod: String,
    },
    /// `NodeUnstageVolume`.
    Unstage,
}

/// The steps for a volume that is published for the pods `published_for`. If the volume may be staged,
/// `staged_for` is the pod for which it was staged, and which may be about to publish it. Pods that do not
/// exist any more lose the volume. Total.
pub fn plan(
    published_for: &[&str],
    staged_for: Option<&str>,
    lives: impl Fn(&str) -> bool,
) -> Vec<CsiStep> {
    let deleted = published_for.iter().filter(|pod| !lives(pod));
    let mut steps: Vec<CsiStep> = deleted
        .map(|pod| CsiStep::Unpublish {
            pod: (*pod).to_owned(),
        })
        .collect();
    let is_free = staged_for.is_some_and(|pod| !lives(pod));
    if is_free && steps.len() == published_for.len() {
        steps.push(CsiStep::Unstage);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(pods: &[&str], staged_for: Option<&str>, lives: &[&str]) -> Vec<CsiStep> {
        plan(pods, staged_for, |pod| lives.contains(&pod))
    }

    fn unpublish(pod: &str) -> CsiStep {
        CsiStep::Unpublish {
            pod: pod.to_owned(),
        }
    }

    #[test]
    fn the_last_pod_takes_the_stage_along() {
        assert_eq!(planned(&["a", "b"], Some("b"), &["a", "b"]), []);
        assert_eq!(planned(&["a", "b"], Some("a"), &["b"]), [unpublish("a")]);
        let all = [unpublish("a"), unpublish("b"), CsiStep::Unstage];
        assert_eq!(planned(&["a", "b"], Some("b"), &["c"]), all);
        assert_eq!(planned(&["a"], None, &[]), [unpublish("a")]);
        assert_eq!(planned(&[], None, &[]), []);
    }

    #[test]
    fn a_stage_stays_while_its_pod_may_be_about_to_publish() {
        assert_eq!(planned(&[], Some("a"), &["a"]), []);
        assert_eq!(planned(&["b"], Some("a"), &["a"]), [unpublish("b")]);
        // The pod was deleted between staging and publishing, or the pod of the stage is unknown.
        assert_eq!(planned(&[], Some("a"), &["b"]), [CsiStep::Unstage]);
        assert_eq!(planned(&[], Some(""), &["a"]), [CsiStep::Unstage]);
    }
}
