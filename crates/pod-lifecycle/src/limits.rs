//! The constants of a pod's lifecycle.

use jiff::SignedDuration;

/// First delay of a restart or of a repeated pull; each further one doubles it.
pub const BACKOFF_INITIAL: SignedDuration = SignedDuration::from_secs(10);

/// Longest delay between restarts or pulls.
pub const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(300);

/// A container that ran this long starts again with the first delay (twice the longest delay).
pub const BACKOFF_RESET: SignedDuration = SignedDuration::from_secs(600);

/// A stopping process gets at least this long between the stop signal and the kill.
pub const STOP_MIN: SignedDuration = SignedDuration::from_secs(2);

/// The longest grace period that a node which stops waits for, where its administrator names none: a
/// pod may ask for years.
pub const NODE_STOP_GRACE_MAX_SECONDS: i64 = 3600;

/// Grace period of a pod that names none.
pub const GRACE_DEFAULT_SECONDS: i64 = 30;

/// How long the plain error (`ErrImagePull`, `RunContainerError`) is shown before the status says
/// that it is being backed off from.
pub const FRESH_ERROR: SignedDuration = SignedDuration::from_secs(2);

/// First interval of the quick readiness and startup checks of a young container; doubles until
/// it reaches the probe's own period.
pub const EAGER_PROBE_INITIAL: SignedDuration = SignedDuration::from_millis(50);

/// How long after a first refusal, or a failure, new resources are tried again.
pub const RESIZE_RETRY: SignedDuration = SignedDuration::from_secs(10);

/// A process that survived a kill is killed again after this long.
pub const KILL_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// First delay after a failed mount, sandbox or deletion; doubles up to [`RETRY_MAX`].
pub const RETRY_INITIAL: SignedDuration = SignedDuration::from_millis(500);

/// Failures in a row after which a node that stops leaves the rest of a pod, none of whose containers
/// run any more, to its next start: its disk may be lost, and whoever stops it waits.
pub const STOP_FAILURES_MAX: u32 = 4;

/// Longest delay between tries of a mount, a sandbox or a deletion.
pub const RETRY_MAX: SignedDuration = SignedDuration::from_secs(60);

/// Longest host name the kernel takes, without the final zero.
pub const HOSTNAME_MAX: usize = 63;

/// Longest fully qualified host name the kernel takes.
pub const FQDN_HOSTNAME_MAX: usize = 64;

const _: () = assert!(BACKOFF_RESET.as_secs() == 2 * BACKOFF_MAX.as_secs());
