//! Reasons and messages of events and container states, equal to kubelet's.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use crate::record::backoff::go_seconds;
use crate::record::{PodFailure, StopCause};
use crate::spec::{ProbeKind, display_name};

pub const START_ERROR: &str = "StartError";
/// Waiting reason after a pull failed.
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
/// Waiting reason of an invalid image name.
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
/// Waiting reason of an absent image with the pull policy `Never`.
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
/// Reason of the event about pull secrets that do not exist.
pub const FAILED_TO_RETRIEVE_PULL_SECRET: &str = "FailedToRetrieveImagePullSecret";
/// Waiting reason between two starts of a container that exits repeatedly.
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
/// Waiting reason when a process could not be started.
pub const RUN_CONTAINER_ERROR: &str = "RunContainerError";
/// Waiting reason when a `postStart` hook has failed.
pub const POST_START_HOOK_ERROR: &str = "PostStartHookError";
/// Waiting reason when the container's configuration is not available.
pub const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";
/// Waiting reason when the container could not be created.
pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// Status message of a pod with the reason [`DEADLINE_EXCEEDED`].
pub const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// The failure of a pod beyond `activeDeadlineSeconds`.
pub fn deadline_exceeded() -> PodFailure {
    PodFailure {
        reason: DEADLINE_EXCEEDED.to_owned(),
        message: DEADLINE_MESSAGE.to_owned(),
        grace_seconds: None,
        disrupts: false,
    }
}

/// The message of a node that rejects a pod because of the node's conditions.
pub fn node_had_conditions(names: &[&str]) -> String {
    format!("The node had condition: [{}]. ", names.join(" "))
}

/// Status message of a pod that the node has rejected.
pub fn rejected(why: &str) -> String {
    format!("Pod was rejected: {why}")
}

/// Whether the status reports a failure with this reason as `ImagePullBackOff` during the back-off.
pub fn is_backed_off(reason: &str) -> bool {
    reason == ERR_IMAGE_PULL
}

/// Message of the event `Killing`.
pub fn killing(container: &str, cause: &StopCause, restarts: bool) -> String {
    let why = match cause {
        StopCause::PodEnds | StopCause::NodeStops | StopCause::AllRestart => {
            return format!("Stopping container {container}");
        }
        StopCause::PostStart => return "FailedPostStartHook".to_owned(),
        StopCause::Liveness => "failed liveness probe",
        StopCause::Startup => "failed startup probe",
        StopCause::Changed => "definition changed",
        StopCause::Resized => return format!("Container {container} resize requires restart"),
    };
    let again = if restarts || *cause == StopCause::Changed {
        ", will be restarted"
    } else {
        ""
    };
    format!("Container {container} {why}{again}")
}

/// Waiting message between two starts, with the delay.
pub fn crash_loop(pod: &Pod, container: &str, delay: SignedDuration) -> String {
    let delay = go_seconds(delay);
    format!(
        "back-off {delay} restarting failed container={container} pod={}",
        display_name(pod)
    )
}

/// Message of the state and of the event of a mount whose `subPath` cannot be opened.
pub fn sub_path_failed(volume: &str, container: &str, why: &str) -> String {
    format!(
        "failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {why}"
    )
}

/// `BackOff` event of a restart.
pub fn restart_back_off(pod: &Pod, container: &str) -> String {
    format!(
        "Back-off restarting failed container {container} in pod {}",
        display_name(pod)
    )
}

/// `BackOff` event of a pull.
pub fn pull_back_off(image: &str) -> String {
    format!("Back-off pulling image \"{image}\"")
}

/// Waiting message between two attempts to pull an image.
pub fn pull_back_off_state(image: &str, reason: &str, message: &str) -> String {
    format!("Back-off pulling image \"{image}\": {reason}: {message}")
}

/// Message of the event `Pulling`.
pub fn pulling(image: &str) -> String {
    format!("Pulling image \"{image}\"")
}

/// `Pulled` event of a downloaded image.
pub fn pulled(image: &str, took: SignedDuration, size: u64) -> String {
    let took = go_milliseconds(took);
    format!(
        "Successfully pulled image \"{image}\" in {took} ({took} including waiting). \
         Image size: {size} bytes."
    )
}

/// `Pulled` event of an image that was present.
pub fn present(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

/// `Failed` event of a pull.
pub fn pull_failed(image: &str, error: &str) -> String {
    format!("Failed to pull image \"{image}\": {error}")
}

/// Message of the event `FailedToRetrieveImagePullSecret`.
pub fn pull_secrets_missing(names: &[&str]) -> String {
    let names = names.join(", ");
    format!(
        "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may \
         not succeed."
    )
}

/// Message of the event and of the waiting state `ErrImageNeverPull`.
pub fn never_pull(image: &str) -> String {
    format!("Container image \"{image}\" is not present with pull policy of Never")
}

/// Message of the state and of the event of a present image that must be pulled to check its credentials,
/// although the pull policy is `Never` (KEP 2535).
pub fn never_pull_to_verify(image: &str) -> String {
    format!(
        "Container image \"{image}\" is present with pull policy of Never, but the pod has no \
         credentials that were verified for it"
    )
}

/// Message of the `Failed` event (`InspectFailed` in kubelet) and of the state of an invalid image name.
pub fn invalid_image(image: &str, error: &str) -> String {
    format!(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": \
         {error}"
    )
}

/// `Unhealthy` event of a failed probe.
pub fn unhealthy(kind: ProbeKind, output: &str) -> String {
    format!("{} probe failed: {output}", kind.word())
}

/// `ProbeWarning` event of a probe that succeeded with a warning.
pub fn probe_warning(kind: ProbeKind, output: &str) -> String {
    format!("{} probe warning: {output}", kind.word())
}

/// `Unhealthy` event of a probe that could not run.
pub fn probe_errored(kind: ProbeKind, error: &str) -> String {
    format!(
        "{} probe errored and resulted in unknown state: {error}",
        kind.word()
    )
}

/// A duration in Go's format, rounded to milliseconds: `405ms`, `1.2s`, `1m3.04s`.
pub fn go_milliseconds(duration: SignedDuration) -> String {
    let ms = duration.as_millis().max(0);
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let minutes = ms / 60_000;
    let rest = ms % 60_000;
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match minutes {
        0 => format!("{seconds}s"),
        m if m < 60 => format!("{m}m{seconds}s"),
        m => format!("{}h{}m{seconds}s", m / 60, m % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_prints_milliseconds_without_trailing_zeros() {
        for (ms, text) in [
            (0, "0s"),
            (405, "405ms"),
            (1200, "1.2s"),
            (2000, "2s"),
            (63_040, "1m3.04s"),
        ] {
            assert_eq!(go_milliseconds(SignedDuration::from_millis(ms)), text);
        }
    }

    #[test]
    fn killing_says_why() {
        // statefulset.md 12.7
        assert_eq!(
            killing("c", &StopCause::PodEnds, true),
            "Stopping container c"
        );
        let liveness = killing("c", &StopCause::Liveness, true);
        assert_eq!(
            liveness,
            "Container c failed liveness probe, will be restarted"
        );
    }
}
