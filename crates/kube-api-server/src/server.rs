//! The API server: the state that requests share.

use std::sync::{Arc, OnceLock};

use mvcc_store::StoreError;
use object_model::Status;
use process_telemetry::prometheus::Page;
use tokio_util::sync::DropGuard;

use crate::access::Access;
use crate::access::audit::Audit;
use crate::access::authorize::Authorizer;
use crate::access::tls::{Tls, TlsError};
use crate::access::tokens::Tokens;
use crate::admission::Admission;
use crate::admission::kind_types::ServedTypes;
use crate::admission::plugins::Plugins;
use crate::aggregation::authentication_config::Authorities;
use crate::aggregation::state::Aggregation;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::flow_control::FlowControl;
use crate::handlers::component_health::{Component, Components};
use crate::handlers::health::Health;
use crate::handlers::metrics::Metrics;
use crate::handlers::remote_nodes::{NodeReach, Nodes};
use crate::handlers::writer::Writer;
use crate::http::limits::Limits;
use crate::http::unread::{UnreadBounds, UnreadResponses};
use crate::http::work::LargeRequestSlots;
use crate::objects::storage::Objects;

/// The error of a server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("set up TLS for the API server")]
    Tls(#[from] TlsError),
    #[error("read the store at start")]
    Store(#[from] StoreError),
    /// A default object could not be created.
    #[error("create {what}")]
    DefaultObject {
        /// Kind and name.
        what: String,
        #[source]
        source: Status,
    },
}

/// The Kubernetes API over a store.
pub struct ApiServer {
    pub(crate) objects: Arc<Objects>,
    pub(crate) access: Access,
    pub(crate) admission: Admission,
    pub(crate) nodes: Nodes,
    pub(crate) aggregation: Aggregation,
    /// The authorities that extension API servers trust.
    pub(crate) authorities: Authorities,
    pub(crate) health: Health,
    pub(crate) components: Components,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tls: Option<Tls>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) flows: FlowControl,
    pub(crate) large_request_slots: Arc<LargeRequestSlots>,
    pub(crate) unread: Arc<UnreadResponses>,
    /// The tasks of the server stop when the server is dropped.
    _background: DropGuard,
}

impl ApiServer {
    /// Builds the server. Nothing is read yet, and no task runs.
    ///
    /// *Errors.* Unusable certificates.
    pub(crate) fn assemble(config: Config, background: DropGuard) -> Result<Self, StartError> {
        let tls = config.tls.as_ref().map(Tls::new).transpose()?;
        let limits = Arc::new(config.limits);
        let aggregation = Aggregation::default();
        if let Some(identity) = &config.front_proxy {
            aggregation.present(&identity.certificate_pem, &identity.key_pem);
        }
        let authorities = Authorities {
            clients: config.tls.map(|tls| tls.client_ca_pem),
            front_proxy: config.front_proxy.map(|identity| identity.ca_pem),
        };
        let mut kinds = config.kinds;
        kinds.push(Arc::new(custom_resources::Definition));
        let catalog = Catalog::new(kinds);
        let objects = Arc::new(Objects::new(
            config.store,
            catalog,
            config.admission_configuration.limited_resources,
        ));
        let mut admission = config.admission;
        let types = ServedTypes::new(objects.clone());
        admission.push(Box::new(admission_rules::Expressions::new(types)));
        admission.push(Box::new(admission_rules::DeviceSelectors));
        let authorizer = Arc::new(Authorizer::new(objects.clone()));
        let plugins = Plugins::new(admission, objects.clone(), authorizer.clone());
        Ok(Self {
            access: Access {
                authorizer,
                tokens: Tokens::new(config.tokens, config.token_audiences, objects.clone()),
                audit: OnceLock::new(),
            },
            aggregation,
            authorities,
            admission: Admission::new(plugins, objects.clone()),
            nodes: Nodes::new(config.nodes, objects.clone()),
            objects,
            health: Health {
                components: process_telemetry::Health::watched_by(limits.slow_polls.clone()),
                ..Health::default()
            },
            components: Components::default(),
            metrics: Arc::default(),
            tls,
            flows: FlowControl::new(limits.clone()),
            large_request_slots: Arc::default(),
            unread: Arc::new(UnreadResponses::new(UnreadBounds {
                all: limits.unread_bytes_max,
                per_sender: limits.unread_bytes_per_sender_max,
            })),
            limits,
            _background: background,
        })
    }

    /// Replaces the server's certificate for new connections. Open connections stay; a server without TLS is
    /// unchanged.
    ///
    /// *Errors.* The certificate or its key cannot be used.
    pub fn show_certificate(&self, certificate_pem: &str, key_pem: &str) -> Result<(), StartError> {
        match &self.tls {
            Some(tls) => Ok(tls.show(certificate_pem, key_pem)?),
            None => Ok(()),
        }
    }

    /// Sets the client certificate for connections to nodes that serve their API on the network, and the
    /// authority (PEM) that must have signed the nodes' certificates.
    ///
    /// *Errors.* The certificate, its key or the authority cannot be used.
    pub fn dial_nodes_with(
        &self,
        certificate_pem: &str,
        key_pem: &str,
        ca_pem: &str,
    ) -> Result<(), StartError> {
        Ok(self.nodes.show(certificate_pem, key_pem, ca_pem)?)
    }

    /// Replaces the client certificate (PEM) for new connections to extension API servers. Its authority is unchanged.
    pub fn show_front_proxy(&self, certificate_pem: &str, key_pem: &str) {
        self.aggregation.present(certificate_pem, key_pem);
    }

    /// Tests the connection to a node of another machine; `None` for a node of this process, and for a node that does
    /// not serve its API on the network.
    pub async fn reach_node(&self, name: &str) -> Option<NodeReach> {
        self.nodes.reach(name).await
    }

    /// Records all later requests in the audit log. Only the first call has an effect.
    pub fn audit(&self, audit: Audit) {
        self.access.audit.get_or_init(|| Arc::new(audit));
    }

    /// The health of the program's components. `/readyz` lists failing components, and `/metrics` contains the
    /// counts.
    pub fn health(&self) -> &process_telemetry::Health {
        &self.health.components
    }

    /// Adds a component to `componentstatuses`. `runs` is called at each request and returns whether the component
    /// runs. A component that was not added is reported as unhealthy.
    pub fn watch_component(
        &self,
        component: Component,
        runs: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        self.components.add(component, runs);
    }

    /// Adds the metrics of another component of the program to `/metrics`.
    pub fn add_metrics(&self, source: impl Fn(&mut Page) + Send + Sync + 'static) {
        self.metrics.add(source);
    }

    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer {
            objects: &self.objects,
            access: &self.access,
            admission: &self.admission,
        }
    }
}
