//! The constants of a pod's lifecycle.

use jiff::SignedDuration;

/// First delay of a restart or of a repeated pull; each further delay is twice as long.
pub const BACKOFF_INITIAL: SignedDuration = SignedDuration::from_secs(10);

pub const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(300);

/// After a run of this length (twice the longest delay), the next restart has the first delay again.
pub const BACKOFF_RESET: SignedDuration = SignedDuration::from_secs(600);

/// Minimum time between the stop signal and the kill.
pub const STOP_MIN: SignedDuration = SignedDuration::from_secs(2);

/// Maximum grace period in a node shutdown without a configured limit, because a pod may have a grace
/// period of years.
pub const NODE_STOP_GRACE_MAX_SECONDS: i64 = 3600;

/// Grace period of a pod that specifies none.
pub const GRACE_DEFAULT_SECONDS: i64 = 30;

/// The status contains the error reason (`ErrImagePull`, `RunContainerError`) for this time, and then the
/// back-off reason.
pub const FRESH_ERROR: SignedDuration = SignedDuration::from_secs(2);

/// First interval of the early readiness and startup probes of a new container. The interval doubles up to
/// the probe's period.
pub const EAGER_PROBE_INITIAL: SignedDuration = SignedDuration::from_millis(50);

/// Delay between attempts of a rejected or failed resize.
pub const RESIZE_RETRY: SignedDuration = SignedDuration::from_secs(10);

/// Delay between kills of a process that has survived a kill.
pub const KILL_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// First delay after a failed mount, sandbox or deletion; doubles up to [`RETRY_MAX`].
pub const RETRY_INITIAL: SignedDuration = SignedDuration::from_millis(500);

/// After this many consecutive failures, a node that shuts down stops the clean-up of a pod without running
/// containers, and leaves the clean-up to its next start: the disk may be lost, and the administrator
/// waits.
pub const STOP_FAILURES_MAX: u32 = 4;

/// Longest delay between attempts of a mount, a sandbox or a deletion.
pub const RETRY_MAX: SignedDuration = SignedDuration::from_secs(60);

/// Maximum length of the kernel's host name, without the final zero.
pub const HOSTNAME_MAX: usize = 63;

/// Maximum length of a fully qualified host name, in the kernel.
pub const FQDN_HOSTNAME_MAX: usize = 64;

const _: () = assert!(BACKOFF_RESET.as_secs() == 2 * BACKOFF_MAX.as_secs());
