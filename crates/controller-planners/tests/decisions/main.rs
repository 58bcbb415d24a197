//! The decisions of all controllers, situation by situation. The tests are one program, because each further program
//! would link the planners and the API types again.

#![expect(clippy::unwrap_used, reason = "a test")]

mod certificate_signing;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod extreme_numbers;
mod garbage_collection;
mod horizontal_pod_autoscaler;
mod job;
mod job_orphans;
mod resource_claims;
mod stateful_set;
mod volume_binding;
mod volume_growth;
mod volume_snapshot;
