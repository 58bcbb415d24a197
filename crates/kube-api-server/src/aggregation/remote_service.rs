//! An extension API server, as its APIService describes it.

use std::sync::{Arc, Mutex, PoisonError};

use json_tree::Value;
use tokio::sync::{Notify, watch};

use crate::catalog::remote::RemoteDocuments;
use crate::http::configured_servers::Trust;
use crate::objects::service_client::{Address, Destination};

/// The group version and the server of an APIService.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceTarget {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) group_priority: i64,
    pub(super) version_priority: i64,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) port: u16,
    /// `caBundle`, PEM in base64; may be empty.
    bundle: String,
    is_insecure: bool,
}

impl ServiceTarget {
    /// The target of an APIService; `None` if this server itself serves the group version.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let (spec, service) = (&object["spec"], &object["spec"]["service"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let port = service["port"].as_u64().unwrap_or(443);
        service.is_object().then(|| Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or_default(),
            version_priority: spec["versionPriority"].as_i64().unwrap_or_default(),
            namespace: text(&service["namespace"]),
            service: text(&service["name"]),
            // Validation accepts valid ports only; no Service has port 0.
            port: u16::try_from(port).unwrap_or_default(),
            bundle: text(&spec["caBundle"]),
            is_insecure: spec["insecureSkipTLSVerify"] == true,
        })
    }

    pub(super) fn destination(&self) -> Destination<'_> {
        Destination {
            address: Address::Service {
                namespace: &self.namespace,
                name: &self.service,
                port: self.port,
                path: "",
            },
            trust: match self.is_insecure {
                true => Trust::Any,
                false => Trust::Bundle(&self.bundle),
            },
        }
    }

    /// The path of the discovery document, which every server of the group version has.
    pub(super) fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }

    /// The URL of a path, for users.
    pub(super) fn url(&self, path: &str) -> String {
        let Self {
            service,
            namespace,
            port,
            ..
        } = self;
        format!("https://{service}.{namespace}.svc:{port}{path}")
    }
}

/// Whether the last check of a remote APIService passed.
pub(super) fn is_available(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    // A condition with the reason `Local` is older than the Service of the APIService.
    conditions.into_iter().flatten().any(|one| {
        one["type"] == "Available" && one["status"] == "True" && one["reason"] != "Local"
    })
}

/// An extension API server and its observed state.
#[derive(Debug)]
pub(crate) struct RemoteService {
    pub(super) target: ServiceTarget,
    available: watch::Sender<bool>,
    /// Notified by a request that gets no response, so that the server is checked at once.
    pub(super) doubted: Notify,
    documents: Mutex<Documents>,
}

#[derive(Debug, Default)]
struct Documents {
    last: Option<Arc<RemoteDocuments>>,
    is_fresh: bool,
}

impl RemoteService {
    pub(super) fn new(target: ServiceTarget) -> Self {
        Self {
            target,
            available: watch::Sender::new(false),
            doubted: Notify::new(),
            documents: Mutex::default(),
        }
    }

    pub(crate) fn is_available(&self) -> bool {
        *self.available.borrow()
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.send_if_modified(|current| {
            let changes = *current != available;
            *current = available;
            changes
        });
    }

    /// Waits until the service is not available.
    pub(super) async fn unavailable(&self) {
        let mut available = self.available.subscribe();
        // The sender is a field of the borrowed service, so the wait does not fail.
        drop(available.wait_for(|available| !available).await);
    }

    pub(super) fn documents(&self) -> (Option<Arc<RemoteDocuments>>, bool) {
        let documents = self.documents.lock();
        let documents = documents.unwrap_or_else(PoisonError::into_inner);
        (documents.last.clone(), documents.is_fresh)
    }

    /// Stores the newest documents; `None` if they could not be read.
    pub(super) fn set_documents(&self, newest: Option<Arc<RemoteDocuments>>) {
        let documents = self.documents.lock();
        let mut documents = documents.unwrap_or_else(PoisonError::into_inner);
        documents.is_fresh = newest.is_some();
        if let Some(newest) = newest {
            documents.last = Some(newest);
        }
    }
}
