//! Controllers and scheduler: the parts that run on one server of a cluster, the leader.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controllers::SharedCaches;
use kube_api_client::Client;
use kube_api_server::Component;
use leader_election::{Lead, Term, during};
use object_model::listening::Listening;
use process_telemetry::Health;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::Server;
use crate::tasks::TaskGroup;

/// Starts the controllers and the scheduler, for each term of leadership.
pub struct LeaderParts {
    client: Box<dyn Fn(&str) -> Client + Send + Sync>,
    controllers: controllers::Config,
    scheduler: pod_scheduler::Config,
    health: Health,
    failed: CancellationToken,
    running: Arc<Mutex<Running>>,
}

/// The tasks of controllers and scheduler, while they run.
#[derive(Default)]
struct Running {
    controllers: Option<AbortHandle>,
    scheduler: Option<AbortHandle>,
}

/// The running controllers and scheduler of one term.
pub struct RunningLeaderParts {
    parts: TaskGroup,
    running: Arc<Mutex<Running>>,
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LeaderParts {
    /// Adds the metrics and the health of the parts to those of the server. `listening` are the ports on which programs
    /// of the machine listen, if the cluster has only this node.
    pub fn of(
        server: &Server,
        listening: Option<watch::Receiver<Listening>>,
        failed: &CancellationToken,
    ) -> Self {
        let controllers = controllers::Config {
            root_ca_pem: server.ca_pem.clone(),
            authority: Some(server.authority.clone()),
            server_names: server.names(),
            node_reach: Some(server.node_reach()),
            listening,
            silence: Some(server.silence.clone()),
            ..controllers::Config::default()
        };
        let scheduler = pod_scheduler::Config::default();
        let (of_controllers, of_scheduler) =
            (controllers.metrics.clone(), scheduler.metrics.clone());
        server.show(move |page| of_controllers.write(page));
        server.show(move |page| of_scheduler.write(page));
        let running: Arc<Mutex<Running>> = Arc::default();
        // On a server that does not lead, the parts do not run, which is not a failure.
        let runs =
            |task: &Option<AbortHandle>| task.as_ref().is_none_or(|task| !task.is_finished());
        let tasks = running.clone();
        server.watch(Component::ControllerManager, move || {
            runs(&lock(&tasks).controllers)
        });
        let tasks = running.clone();
        server.watch(Component::Scheduler, move || runs(&lock(&tasks).scheduler));
        Self {
            client: Box::new(server.clients()),
            controllers,
            scheduler,
            health: server.health(),
            failed: failed.clone(),
            running,
        }
    }

    /// Starts the parts; with a term, they use the API only during the term.
    pub fn start(&self, term: Option<&Arc<Term>>) -> RunningLeaderParts {
        let client = |user: &str| {
            let client = (self.client)(user);
            match term {
                Some(term) => during(term, client),
                None => client,
            }
        };
        let mut parts = TaskGroup::new(&self.health, &self.failed);
        let controllers = client("system:kube-controller-manager");
        // The controllers may read every kind that the scheduler reads, so both share the caches.
        let caches = SharedCaches::new(controllers.clone(), parts.component("caches"));
        let config = controllers::Config {
            caches: Some(caches.clone()),
            ..self.controllers.clone()
        };
        let controllers = parts.run("controllers", |stop| {
            controllers::run_all(controllers, config, stop)
        });
        let scheduler = client("system:kube-scheduler");
        let config = pod_scheduler::Config {
            caches: Some(caches),
            ..self.scheduler.clone()
        };
        let scheduler = parts.run("scheduler", |stop| {
            pod_scheduler::run(scheduler, config, stop)
        });
        *lock(&self.running) = Running {
            controllers: Some(controllers),
            scheduler: Some(scheduler),
        };
        RunningLeaderParts {
            parts,
            running: self.running.clone(),
        }
    }
}

impl Lead for RunningLeaderParts {
    async fn end(self) {
        *lock(&self.running) = Running::default();
        self.parts.end().await;
    }

    async fn abort(self) {
        *lock(&self.running) = Running::default();
        self.parts.abort().await;
    }
}
