//! The CronJob controller: creates jobs by a schedule.

use std::sync::Arc;

use controller_framework::{Cache, Index, Queue, ReconcileResult, Recorder};
use controller_planners::cron_job::{CRON_JOB, CronJobPlan, Observed, plan};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube_api_client::guarded_writes::{self, Delete, WriteRefusal, refusal};
use kube_api_client::{Api, PostParams, PropagationPolicy, ResourceExt};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;

use crate::Context;
use crate::api_error::{ApiError, failed};
use crate::owned::{key_if_spec_changed, owned_by, owners_of, terms};

struct Worker {
    context: Context,
    cron_jobs: Cache<CronJob>,
    jobs: Cache<Job>,
    jobs_by: Index<Job>,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context) {
    let jobs = context.caches.jobs.clone();
    let controller = Worker {
        cron_jobs: context.cache(),
        jobs_by: jobs.index(terms),
        jobs,
        recorder: context.recorder("cronjob-controller"),
        context: context.clone(),
    };
    context.run("cronjob", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = ApiError;

    /// CronJobs processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.cron_jobs.wait_synced().await && self.jobs.wait_synced().await
    }

    /// Queues the CronJobs affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut cron_jobs = self.cron_jobs.subscribe();
        let mut jobs = self.jobs.subscribe();
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = cron_jobs.next() => key_if_spec_changed(&change).into_iter().collect(),
                Some(change) = jobs.next() => owners_of(&change, &self.cron_jobs, CRON_JOB.kind),
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, ApiError> {
        let Some(cron_job) = self.cron_jobs.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let uid = cron_job.metadata.object_uid();
        let uid = uid.map_err(failed("identity of a cron job"))?;
        let mut jobs = self.jobs_by.get(&owned_by(uid.as_str()));
        jobs.extend(self.jobs_not_cached(&cron_job, &jobs).await?);
        let observed = Observed {
            jobs,
            cron_job: cron_job.clone(),
        };
        let plan =
            plan(&observed, Timestamp::now()).map_err(failed("plan the jobs of a cron job"))?;
        let requeue_after = plan.requeue_after;
        self.execute(&cron_job, plan).await?;
        Ok(ReconcileResult::from(requeue_after))
    }
}

impl Worker {
    /// Active jobs that exist on the API server but not in the cache yet.
    async fn jobs_not_cached(
        &self,
        cron_job: &CronJob,
        cached: &[Arc<Job>],
    ) -> Result<Vec<Arc<Job>>, ApiError> {
        let namespace = cron_job.metadata.object_namespace();
        let namespace = namespace.map_err(failed("identity of a cron job"))?;
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), namespace);
        let status = cron_job.status.as_ref();
        let active = status.and_then(|status| status.active.as_deref());
        let mut missing = Vec::new();
        for job in active.unwrap_or_default() {
            if cached.iter().any(|other| other.metadata.uid == job.uid) {
                continue;
            }
            let name = job.name.as_deref().unwrap_or_default();
            let live = guarded_writes::existing_object(api.get(name).await)
                .map_err(failed("read a job"))?;
            missing.extend(
                live.filter(|live| live.metadata.uid == job.uid)
                    .map(Arc::new),
            );
        }
        Ok(missing)
    }

    async fn execute(&self, cron_job: &CronJob, plan: CronJobPlan) -> Result<(), ApiError> {
        let namespace = cron_job.metadata.object_namespace();
        let namespace = namespace.map_err(failed("identity of a cron job"))?;
        let jobs: Api<Job> = Api::namespaced(self.context.client.clone(), namespace);
        for notice in plan.notices {
            if notice.warning {
                self.recorder
                    .warning(cron_job, notice.reason, notice.message);
            } else {
                self.recorder
                    .normal(cron_job, notice.reason, notice.message);
            }
        }
        for job in plan.delete {
            let how = Delete::of_uid(job.uid).propagation(PropagationPolicy::Background);
            let deleted = guarded_writes::delete(&jobs, &job.name, how).await;
            deleted.map_err(failed("delete a job"))?;
        }
        if let Some(job) = &plan.create {
            self.create(cron_job, &jobs, job).await?;
        }
        match plan.status {
            Some(status) => self.write_status(cron_job, status).await,
            None => Ok(()),
        }
    }

    /// Creates a job. An existing job of that name was created by an earlier plan.
    async fn create(&self, cron_job: &CronJob, jobs: &Api<Job>, job: &Job) -> Result<(), ApiError> {
        let name = job.name_any();
        match jobs.create(&PostParams::default(), job).await {
            Ok(_) => {
                let text = format!("Created job {name}");
                self.recorder.normal(cron_job, "SuccessfulCreate", text);
                Ok(())
            }
            Err(error) => match refusal(&error) {
                WriteRefusal::AlreadyExists | WriteRefusal::NamespaceTerminating => Ok(()),
                _ => {
                    let text = format!("Error creating job: {}", guarded_writes::message(&error));
                    self.recorder.warning(cron_job, "FailedCreate", text);
                    Err(failed("create a job")(error))
                }
            },
        }
    }

    async fn write_status(
        &self,
        cron_job: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), ApiError> {
        let namespace = cron_job.metadata.object_namespace();
        let namespace = namespace.map_err(failed("identity of a cron job"))?;
        let api: Api<CronJob> = Api::namespaced(self.context.client.clone(), namespace);
        let object = CronJob {
            status: Some(status),
            ..cron_job.clone()
        };
        let params = PostParams::default();
        let name = cron_job.name_any();
        let written = api.replace_status(&name, &params, &object).await;
        guarded_writes::existing_object(written)
            .map(drop)
            .map_err(failed("write the status of a cron job"))
    }
}
