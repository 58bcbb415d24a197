//! The options of a set, read from its annotations.
//!
//! The API server refuses invalid values; an invalid value that was stored earlier counts as
//! absent.

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::StatefulSet;
use resource_kinds::annotations;

/// The options of a set. The default is the behaviour of mainstay; the other values select the behaviour of
/// kube-controller-manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `mainstay.dev/stuck-rollout`: whether a pod that never becomes Ready may be replaced.
    pub stuck_rollout: StuckRollout,
    /// `mainstay.dev/scale-down`: whether an unavailable pod stops scaling down.
    pub scale_down: ScaleDown,
    /// `mainstay.dev/max-unavailable`: how `maxUnavailable` counts.
    pub max_unavailable: MaxUnavailable,
    /// `mainstay.dev/progress-deadline-seconds`; without the annotation there is no deadline.
    pub progress_deadline: Option<SignedDuration>,
    /// `mainstay.dev/node-failure`: whether pods of a failed node run elsewhere.
    pub node_failure: NodeFailure,
    /// `mainstay.dev/lost-volume: Recreate`, and the time after which a volume of a fenced node is given
    /// up (`mainstay.dev/lost-volume-seconds`).
    pub lost_volume: Option<SignedDuration>,
}

/// The time after which a volume of a fenced node is given up, if the set has no annotation for the time.
const LOST_VOLUME_AFTER: SignedDuration = SignedDuration::from_secs(300);

/// The handling of pods whose node was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeFailure {
    /// The pods wait for their node, or for an administrator (statefulset.md 3.31).
    #[default]
    Wait,
    /// The pods end with the lease of their node, and are replaced elsewhere.
    Failover,
}

/// The treatment of a pod that never became Ready at an obsolete revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StuckRollout {
    /// The pod is replaced.
    #[default]
    Replace,
    /// The pod waits for its deletion by an administrator (statefulset.md 3.12, 5.20).
    Wait,
}

/// The surplus pod that is deleted next, in `OrderedReady`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleDown {
    /// The highest ordinal. If its pod was healthy recently, it waits for an unhealthy lower pod, for [`MOMENT`] at
    /// most.
    #[default]
    WaitAMoment,
    /// The highest ordinal, whether its pod is healthy or not.
    HighestFirst,
    /// The highest ordinal. If its pod is unhealthy, it waits for an unhealthy lower pod (statefulset.md 3.13, 3.14).
    WaitForLowest,
}

/// A surplus pod that became unhealthy may recover for this time before it is deleted.
pub const MOMENT: SignedDuration = SignedDuration::from_secs(60);

/// The effect of unavailable outdated pods on the budget `maxUnavailable`, in `Parallel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxUnavailable {
    /// Unavailable outdated pods use no budget and are updated first (statefulset.md 3.45).
    #[default]
    Corrected,
    /// Unavailable outdated pods use the budget like all other pods (statefulset.md 3.43).
    AsReleased,
}

impl Options {
    /// The options in the set's annotations.
    pub fn of(set: &StatefulSet) -> Self {
        let annotations = set.metadata.annotations.as_ref();
        let value = |key| annotations.and_then(|all| all.get(key)).map(String::as_str);
        let mut options = Self::default();
        if value(annotations::STUCK_ROLLOUT) == Some("Wait") {
            options.stuck_rollout = StuckRollout::Wait;
        }
        match value(annotations::SCALE_DOWN) {
            Some("HighestFirst") => options.scale_down = ScaleDown::HighestFirst,
            Some("WaitForLowest") => options.scale_down = ScaleDown::WaitForLowest,
            _ => {}
        }
        if value(annotations::MAX_UNAVAILABLE) == Some("AsReleased") {
            options.max_unavailable = MaxUnavailable::AsReleased;
        }
        let seconds = value(annotations::PROGRESS_DEADLINE_SECONDS).and_then(whole_number);
        options.progress_deadline = seconds.map(SignedDuration::from_secs);
        if value(annotations::NODE_FAILURE) == Some("Failover") {
            options.node_failure = NodeFailure::Failover;
        }
        if value(annotations::LOST_VOLUME) == Some("Recreate") {
            let seconds = value(annotations::LOST_VOLUME_SECONDS).and_then(whole_number);
            options.lost_volume =
                Some(seconds.map_or(LOST_VOLUME_AFTER, SignedDuration::from_secs));
        }
        options
    }
}

/// A number as the API server accepts it: digits only, 1 to 2147483647.
fn whole_number(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: i32 = text.parse().ok().filter(|_| digits)?;
    (number >= 1).then_some(i64::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(annotations: &[(&str, &str)]) -> Options {
        let mut set = StatefulSet::default();
        let pairs = annotations
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        set.metadata.annotations = Some(pairs.collect());
        Options::of(&set)
    }

    #[test]
    fn each_annotation_is_read() {
        let read = options(&[
            (annotations::STUCK_ROLLOUT, "Wait"),
            (annotations::SCALE_DOWN, "WaitForLowest"),
            (annotations::MAX_UNAVAILABLE, "AsReleased"),
            (annotations::PROGRESS_DEADLINE_SECONDS, "2147483647"),
            (annotations::NODE_FAILURE, "Failover"),
            (annotations::LOST_VOLUME, "Recreate"),
            (annotations::LOST_VOLUME_SECONDS, "60"),
        ]);
        let expected = Options {
            stuck_rollout: StuckRollout::Wait,
            scale_down: ScaleDown::WaitForLowest,
            max_unavailable: MaxUnavailable::AsReleased,
            progress_deadline: Some(SignedDuration::from_secs(2_147_483_647)),
            node_failure: NodeFailure::Failover,
            lost_volume: Some(SignedDuration::from_secs(60)),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_cannot_be_read_is_the_default() {
        for value in [
            "",
            "wait",
            "0",
            "-1",
            "+5",
            "5s",
            "2147483648",
            "99999999999999999999",
        ] {
            let read = options(&[
                (annotations::STUCK_ROLLOUT, value),
                (annotations::SCALE_DOWN, value),
                (annotations::MAX_UNAVAILABLE, value),
                (annotations::PROGRESS_DEADLINE_SECONDS, value),
                (annotations::NODE_FAILURE, value),
                (annotations::LOST_VOLUME, value),
            ]);
            assert_eq!(read, Options::default(), "{value}");
        }
    }
}
