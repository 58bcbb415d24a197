//! The real API server, controllers and scheduler, which can crash and start again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kube_api_client::Client;
use kube_api_server::{ApiServer, UserInfo};
use mvcc_store::Store;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::link::{Address, Conditions, Incarnation, Link};
use crate::process::Process;
use crate::{random, tally, trace};

pub use kube_api_server::StartError;

/// The real API server over a store, for clients of this process.
///
/// # Errors
///
/// The server does not start.
pub async fn start_server(store: Arc<dyn Store>) -> Result<Arc<ApiServer>, StartError> {
    ApiServer::new(kube_api_server::Config::in_process(store)).await
}

/// Restarts the server over one store whenever it has stopped.
pub struct Server {
    store: Arc<dyn Store>,
    /// The address for clients.
    pub address: Address,
}

impl Server {
    /// A server that has not started yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            address: Address::default(),
        }
    }

    pub async fn start(&self) {
        match start_server(self.store.clone()).await {
            Ok(server) => {
                let down = CancellationToken::new();
                let incarnation = Incarnation {
                    server,
                    down,
                    process: Process::default(),
                };
                *self.incarnation() = Some(incarnation);
            }
            Err(error) => trace::broken(format!("the API server does not start: {error}")),
        }
    }

    /// Stops the server at any point of its work.
    pub fn crash(&self) {
        if let Some(incarnation) = self.incarnation().take() {
            trace!("API server crashes");
            incarnation.down.cancel();
        }
    }

    fn incarnation(&self) -> std::sync::MutexGuard<'_, Option<Incarnation>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A component of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// All controllers.
    Controllers,
    Scheduler,
}

impl Component {
    fn name(self) -> &'static str {
        match self {
            Self::Controllers => "controllers",
            Self::Scheduler => "scheduler",
        }
    }

    /// The link of the component to a server.
    pub fn link(self, address: &Address, conditions: &Arc<Conditions>) -> Link {
        let (address, conditions) = (address.clone(), conditions.clone());
        Link::new(self.name(), self.user(), address, conditions)
    }

    fn user(self) -> UserInfo {
        let name = match self {
            Self::Controllers => "system:kube-controller-manager",
            Self::Scheduler => "system:kube-scheduler",
        };
        UserInfo::new(name, ["system:authenticated"])
    }
}

/// A run of a component, from its start to its stop.
pub struct ComponentRun {
    link: Link,
    stop: CancellationToken,
    work: JoinHandle<()>,
}

impl ComponentRun {
    /// Starts a component.
    pub fn start(component: Component, address: &Address, conditions: &Arc<Conditions>) -> Self {
        let link = component.link(address, conditions);
        let client = link.client();
        Self::over(component, link, client)
    }

    /// Starts a component with a client over its link.
    pub fn over(component: Component, link: Link, client: Client) -> Self {
        let stop = CancellationToken::new();
        let token = stop.clone();
        let (dead, name) = (link.dead.clone(), component.name());
        let gap = link.conditions.observation_gap();
        let silence = link.conditions.silence.clone();
        let metrics = tally::metrics();
        trace!("{name} start");
        let work = tokio::spawn(async move {
            let result = match component {
                Component::Controllers => {
                    let config = controllers::Config {
                        root_ca_pem: "certificates".to_owned(),
                        observation_gap: gap,
                        silence: Some(silence),
                        metrics,
                        ..controllers::Config::default()
                    };
                    let run = controllers::run_all(client, config, token.clone());
                    run.await.map_err(|error| error.to_string())
                }
                Component::Scheduler => {
                    let run =
                        pod_scheduler::run(client, pod_scheduler::Config::default(), token.clone());
                    run.await.map_err(|error| error.to_string())
                }
            };
            if let Err(error) = result
                && !dead.is_cancelled()
            {
                trace::broken(format!("{name} ended: {error}"));
            }
        });
        Self { link, stop, work }
    }

    /// Stops the component at any point of its work.
    pub fn crash(&self) {
        self.link.dead.cancel();
        self.stop.cancel();
        self.work.abort();
    }

    /// Stops the component in order.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.work.await {
            trace::broken(format!("a component ended: {error}"));
        }
        self.link.dead.cancel();
    }
}

/// Keeps a component running: a stopped component is restarted after a while.
pub async fn supervise(component: Component, address: Address, conditions: Arc<Conditions>) {
    loop {
        let run = ComponentRun::start(component, &address, &conditions);
        tokio::select! {
            () = run.link.dead.cancelled() => {}
            () = conditions.killed() => {}
        }
        run.crash();
        sleep(random::millis(0, 5_000)).await;
    }
}

/// Runs a component a second time for a while, concurrently with the first run, as if the first run was assumed dead.
pub async fn run_second(component: Component, address: Address, time: Duration) {
    let run = ComponentRun::start(component, &address, &Arc::default());
    sleep(time).await;
    trace!("second {} end", component.name());
    run.crash();
}
