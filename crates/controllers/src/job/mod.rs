//! The Job controller.

use std::time::Duration;

use controller_framework::decide;
use controller_framework::{
    Cache, Index, ObjectChange, Queue, ReconcileResult, Recorder, object_key,
};
use controller_planners::job::{JOB, JobPlan, Observed, TRACKING, job_of, orphaned, plan};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, PostParams, PropagationPolicy};
use object_model::{IncompleteMetadata, ObjectIdentity, ObjectKey, ResourceVersion};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::api_error::{ApiError, failed};
use crate::owned::{key_if_spec_changed, orphan_in, owned_by, owners_of_pod, pods_for_owners};
use crate::plan_size::plan_size;
use crate::pod_writer::{PodError, PodWriter};

/// Time until the controller logs that the status is missing in the cache, and reads it from the API server.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("write the pods of a Job")]
    Pods(#[from] PodError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("identity of an object")]
    Identity(#[from] IncompleteMetadata),
}

struct Worker {
    context: Context,
    jobs: Cache<Job>,
    /// The pods that a job of that name counts, whether the job exists or not.
    counted: Index<PodView>,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        jobs: context.caches.jobs.clone(),
        counted: context.caches.pods.index(|pod| {
            let job = lost_owner(pod);
            job.iter().map(ToString::to_string).collect()
        }),
        recorder: context.recorder("job-controller"),
        context: context.clone(),
    };
    context.run("job", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = Error;

    /// Jobs processed at once.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.jobs.wait_synced().await && self.context.caches.pods.wait_synced().await
    }

    /// Queues the jobs affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut jobs = self.jobs.subscribe();
        let mut pods = pods_for_owners(JOB.kind, &self.context.caches.pods);
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = jobs.next() => key_of(&change).into_iter().collect(),
                Some(change) = pods.next() => {
                    let mut keys = owners_of_pod(&change, &self.jobs, JOB.kind);
                    keys.extend(lost_owner(change.object()));
                    keys
                }
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let job = self.jobs.get_key(key);
        let counted = self.counted.get(&key.to_string());
        let orphans = orphaned(&counted, &key.name, job.as_deref())?;
        let Some(job) = job else {
            // A placeholder with the name, for the writes.
            self.writer(&named(key)).perform(&orphans).await?;
            return Ok(ReconcileResult::Done);
        };
        self.writer(&job).perform(&orphans).await?;
        if is_managed_elsewhere(&job) {
            return Ok(ReconcileResult::Done);
        }
        let uid = job.metadata.object_uid()?;
        let by_owner = &self.context.pods_by_owner;
        let mut pods = by_owner.get(&owned_by(uid.as_str()));
        pods.extend(by_owner.get(&orphan_in(&key.namespace)));
        let observed = Observed {
            job: job.clone(),
            pods,
        };
        let parallelism = job.spec.as_ref().and_then(|spec| spec.parallelism);
        let size = plan_size(observed.pods.len(), parallelism);
        let plan = decide(size, || plan(&observed, Timestamp::now()))?;
        let requeue_after = plan.requeue_after;
        match self.execute(&job, plan).await {
            Err(Error::Pods(error)) if error.is_end_of_namespace() => Ok(ReconcileResult::Done),
            Err(error) => Err(error),
            Ok(()) => Ok(ReconcileResult::from(requeue_after)),
        }
    }
}

impl Worker {
    fn writer<'a>(&'a self, job: &'a Job) -> PodWriter<'a, Job> {
        PodWriter {
            owner: job,
            client: &self.context.client,
            cache: &self.context.caches.pods,
            recorder: &self.recorder,
            finalizer: Some(TRACKING),
        }
    }

    /// Executes a plan. Pods lose their finalizer only after the status that counts them is written.
    async fn execute(&self, job: &Job, plan: JobPlan) -> Result<(), Error> {
        let writer = self.writer(job);
        writer.perform(&plan.prepare).await?;
        if let Some(status) = plan.status {
            self.write_status(job, status).await?;
        }
        for notice in plan.notices {
            if notice.warning {
                self.recorder.warning(job, &notice.reason, notice.message);
            } else {
                self.recorder.normal(job, &notice.reason, notice.message);
            }
        }
        writer.perform(&plan.release).await?;
        writer.perform(&plan.pods).await?;
        if plan.expired {
            self.delete(job).await?;
        }
        Ok(())
    }

    fn api(&self, namespace: &str) -> Api<Job> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    async fn write_status(&self, job: &Job, status: JobStatus) -> Result<(), Error> {
        let object = Job {
            status: Some(status),
            ..job.clone()
        };
        let name = job.metadata.object_name()?;
        let before = job.metadata.object_version()?;
        let params = PostParams::default();
        let jobs = self.api(job.metadata.object_namespace()?);
        let written = jobs.replace_status(name, &params, &object).await;
        let written = guarded_writes::existing_object(written)
            .map_err(failed("write the status of a job"))?;
        if let Some(new) = written
            && new.metadata.object_version()? != before
        {
            self.wait_until_visible(&object_key(job), before).await;
        }
        Ok(())
    }

    /// Waits until the job's written status, or a newer status, is visible: a deleted pod must not be missing from the
    /// counts of the next plan.
    async fn wait_until_visible(&self, key: &ObjectKey, before: ResourceVersion) {
        let is_old = |job: &Job| job.metadata.object_version() == Ok(before);
        loop {
            let is_visible = || self.jobs.get_key(key).is_none_or(|cached| !is_old(&cached));
            let wait = self.jobs.wait_until(is_visible);
            let cached = tokio::time::timeout(VISIBLE_WITHIN, wait).await.is_ok();
            if cached || self.jobs.is_stopped() {
                return;
            }
            tracing::warn!(key = %key, "own status is not seen yet");
            let live =
                guarded_writes::existing_object(self.api(&key.namespace).get(&key.name).await);
            if live.is_ok_and(|live| live.is_none_or(|live| is_old(&live))) {
                return;
            }
        }
    }

    async fn delete(&self, job: &Job) -> Result<(), Error> {
        let ObjectIdentity { key, uid, version } = job.metadata.identity()?;
        let how = Delete {
            resource_version: Some(version),
            ..Delete::of_uid(uid)
        };
        let how = how.propagation(PropagationPolicy::Foreground);
        let deleted = guarded_writes::delete(&self.api(&key.namespace), &key.name, how).await;
        Ok(deleted.map(drop).map_err(failed("delete an expired job"))?)
    }
}

/// A placeholder for a deleted job.
fn named(key: &ObjectKey) -> Job {
    let mut job = Job::default();
    job.metadata.name = Some(key.name.to_string());
    job.metadata.namespace = Some(key.namespace.to_string());
    job
}

fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
    manager.is_some_and(|manager| manager != "kubernetes.io/job-controller")
}

/// The key of a changed job. The status decides the next step, so its changes count as well.
fn key_of(change: &ObjectChange<Job>) -> Option<ObjectKey> {
    match change {
        ObjectChange::Applied(new, Some(old)) if new.status != old.status => {
            Some(object_key(new.as_ref()))
        }
        other => key_if_spec_changed(other),
    }
}

/// The job that counts this pod, even if the job is deleted.
fn lost_owner(pod: &PodView) -> Option<ObjectKey> {
    job_of(pod).map(|name| ObjectKey::new(&*pod.namespace, name))
}
