//! batch: jobs.

mod cron_job;
mod job;
mod job_rules;

pub use cron_job::CronJob;
pub use job::Job;
