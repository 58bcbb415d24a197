//! The server: everything that requests share.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, OnceLock, RwLock};

use mvcc_store::{Store, StoreError};
use object_model::Status;
use resource_kinds::Kind;
use resource_kinds::admission::Admission;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::audit::Audit;
use crate::access::authorize::{self, Rbac, Sources};
use crate::access::tls::{Tls, TlsError};
use crate::access::tokens::Tokens;
use crate::admission::dynamic_admission::Registrations;
use crate::bootstrap;
use crate::catalog::snapshot::Served;
use crate::config::Config;
use crate::following;
use crate::group_services;
use crate::handlers::component_health::Components;
use crate::handlers::health::Checks;
use crate::handlers::metrics::Metrics;
use crate::handlers::nodes::NodeConnector;
use crate::http::flow_control::Shares;
use crate::http::limits::Limits;
use crate::http::user::UserInfo;
use crate::http::work::{self, Places};
use crate::local::LocalService;
use crate::objects::quota;
use crate::objects::storage::Leases;
use crate::serve::{self, ServeError};
use crate::store_room;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates cannot be used.
    #[error("set up TLS for the API server")]
    Tls(#[from] TlsError),
    /// The store cannot be read.
    #[error("read the store at start")]
    Store(#[from] StoreError),
    /// An object that every cluster has could not be created.
    #[error("create {what}")]
    DefaultObject {
        /// Kind and name.
        what: String,
        /// The refusal.
        #[source]
        source: Status,
    },
}

/// The Kubernetes API over a store.
pub struct ApiServer {
    pub(crate) store: Arc<dyn Store>,
    /// The kinds that the server has by itself.
    pub(crate) kinds: Vec<Arc<dyn Kind>>,
    pub(crate) served: RwLock<Arc<Served>>,
    /// Held while definitions are read.
    pub(crate) definitions: tokio::sync::Mutex<()>,
    pub(crate) admission: Vec<Box<dyn Admission>>,
    pub(crate) registrations: RwLock<Arc<Registrations>>,
    /// How often in a row following definitions and webhooks has failed.
    pub(crate) following: AtomicU32,
    pub(crate) rbac: Arc<Rbac>,
    pub(crate) nodes: Arc<dyn NodeConnector>,
    pub(crate) tls: Option<Tls>,
    pub(crate) tokens: Tokens,
    pub(crate) limits: Limits,
    pub(crate) leases: Leases,
    pub(crate) metrics: Metrics,
    pub(crate) components: Components,
    pub(crate) checks: Checks,
    pub(crate) bootstrapped: AtomicBool,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) long_running: Arc<Semaphore>,
    pub(crate) shares: Shares,
    pub(crate) places: Arc<Places>,
    pub(crate) audit: OnceLock<Arc<Audit>>,
    /// Ends the tasks of the server with it.
    _background: DropGuard,
}

impl ApiServer {
    /// Makes a server, fills its index of roles and creates what every cluster has and this one
    /// lacks. It answers [`local`](Self::local) callers from then on.
    ///
    /// *Errors.* Unusable certificates, a store that fails, default objects that are refused.
    pub async fn new(config: Config) -> Result<Arc<Self>, StartError> {
        let background = CancellationToken::new();
        let tls = config.tls.as_ref().map(Tls::new).transpose()?;
        let limits = config.limits.clone();
        let mut kinds = config.kinds;
        kinds.push(Arc::new(custom_resources::Definition));
        let mut admission = config.admission;
        admission.push(Box::new(admission_rules::Expressions));
        let server = Arc::new(Self {
            store: config.store.clone(),
            served: RwLock::new(Arc::new(Served::new(&kinds, &[], Vec::new()))),
            kinds,
            definitions: tokio::sync::Mutex::default(),
            admission,
            registrations: RwLock::default(),
            following: AtomicU32::new(0),
            rbac: Arc::default(),
            nodes: config.nodes.clone(),
            tls,
            tokens: Tokens::new(config.tokens.clone(), config.token_audiences.clone()),
            leases: Leases::default(),
            metrics: Metrics::default(),
            components: Components::default(),
            checks: Checks::default(),
            bootstrapped: AtomicBool::new(false),
            requests: Arc::new(Semaphore::new(limits.requests_in_flight_max)),
            long_running: Arc::new(Semaphore::new(limits.long_running_max)),
            shares: Shares::default(),
            places: Arc::default(),
            audit: OnceLock::new(),
            limits,
            _background: background.clone().drop_guard(),
        });
        let cluster = bootstrap::Cluster {
            default_objects: config.default_objects,
            service_ip: config.service_ip,
            advertise: config.advertise,
        };
        server
            .follow_definitions()
            .await
            .map_err(|source| StartError::DefaultObject {
                what: "the kinds of the definitions".to_owned(),
                source,
            })?;
        let made = bootstrap::run(&server, &cluster).await;
        store_room::unless_full(&server, made)?;
        let made =
            group_services::follow(&server)
                .await
                .map_err(|source| StartError::DefaultObject {
                    what: "the objects of the groups that are served".to_owned(),
                    source,
                });
        store_room::unless_full(&server, made)?;
        server.follow_registrations();
        let sources = Sources::of(&server.served().registry);
        authorize::fill(&server.rbac, server.store.as_ref(), &sources).await?;
        let fresh = authorize::keep_fresh(
            server.rbac.clone(),
            server.store.clone(),
            sources,
            background,
        );
        server.start("the index of roles", fresh);
        server.start("following", following::run(Arc::downgrade(&server)));
        server.start("room", store_room::watch(Arc::downgrade(&server)));
        server.start("quotas", quota::keep_right(Arc::downgrade(&server)));
        server
            .bootstrapped
            .store(true, std::sync::atomic::Ordering::Release);
        Ok(server)
    }

    /// Starts a task of the server's own.
    fn start(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(work::watched(self.limits.slow_polls.clone(), what, task));
    }

    /// Serves HTTPS on a listener until `shutdown`; may be called for several listeners. Returns
    /// when the connections have ended, or some seconds after `shutdown`.
    ///
    /// *Errors.* The server was made without certificates.
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        serve::serve(self, listener, shutdown).await
    }

    /// Shows another certificate to those who connect from now on: the server is known by other
    /// names. Connections that are open stay; a server that was made without any goes on without.
    ///
    /// *Errors.* The certificate or its key cannot be used.
    pub fn show_certificate(&self, certificate_pem: &str, key_pem: &str) -> Result<(), StartError> {
        match &self.tls {
            Some(tls) => Ok(tls.show(certificate_pem, key_pem)?),
            None => Ok(()),
        }
    }

    /// Notes all requests from now on; the first call counts.
    pub fn audit(&self, audit: Audit) {
        self.audit.get_or_init(|| Arc::new(audit));
    }

    /// The server as a service of this process, for one user.
    pub fn local(self: &Arc<Self>, user: UserInfo) -> LocalService {
        LocalService::new(self.clone(), user)
    }
}
