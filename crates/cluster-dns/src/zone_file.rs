//! The last contents of the zone on disk, for a start while no API server responds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use controller_framework::ServiceState;
use dns_records::{Settings, Zone};
use host_kernel::durable_file::{self, Durability};
use host_kernel::{BlockingTask, Interrupted, blocking, blocking_value};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::ObjectKey;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::limits::ZONE_WRITE_DELAY;

/// A Service in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredService {
    namespace: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<Service>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    slices: Vec<EndpointSlice>,
}

/// The file with the zone's contents, and the contents of the next write.
pub(crate) struct ZoneFile {
    file: PathBuf,
    states: BTreeMap<ObjectKey, ServiceState>,
    due: Option<Instant>,
    /// The running or last write.
    writing: Option<BlockingTask<(), Interrupted>>,
}

impl ZoneFile {
    pub(crate) fn at(file: PathBuf) -> Self {
        Self {
            file,
            states: BTreeMap::new(),
            due: None,
            writing: None,
        }
    }

    /// The zone in the file; `None` if there is no valid file.
    pub(crate) async fn read(&self, settings: Settings) -> Option<Zone> {
        let file = self.file.clone();
        let bytes = match blocking(move || fs::read(file)).await {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %self.file.display(), %error, "stored names not read");
                }
                return None;
            }
        };
        let services: Vec<StoredService> = match serde_json::from_slice(&bytes) {
            Ok(services) => services,
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "stored names not read");
                return None;
            }
        };
        let mut zone = Zone::new(settings);
        for stored in &services {
            let slices: Vec<&EndpointSlice> = stored.slices.iter().collect();
            let service = stored.service.as_ref();
            zone.replace(&stored.namespace, &stored.name, service, &slices);
        }
        Some(zone)
    }

    /// Records changes of the zone, which are written when they are due.
    pub(crate) fn record(&mut self, states: &[ServiceState]) {
        for state in states {
            if state.service.is_none() && state.slices.is_empty() {
                self.states.remove(&state.key);
            } else {
                let state = ServiceState {
                    key: state.key.clone(),
                    service: state.service.clone(),
                    slices: state.slices.clone(),
                };
                self.states.insert(state.key.clone(), state);
            }
        }
        if !states.is_empty() {
            self.due
                .get_or_insert_with(|| Instant::now() + ZONE_WRITE_DELAY);
        }
    }

    /// The time of the next write; `None` if there is nothing to write.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts a write of the file. The server continues to respond meanwhile.
    pub(crate) fn write(&mut self) {
        let is_writing = |task: &BlockingTask<(), Interrupted>| !task.is_finished();
        if self.writing.as_ref().is_some_and(is_writing) {
            self.due = Some(Instant::now() + ZONE_WRITE_DELAY);
            return;
        }
        self.due = None;
        let file = self.file.clone();
        let states: Vec<StoredState> = self.states.values().map(stored_state).collect();
        self.writing = Some(blocking_value(move || {
            let services: Vec<StoredService> = states.into_iter().map(reduced).collect();
            let text = serde_json::to_vec(&services).map_err(io::Error::other);
            let written = text
                .and_then(|text| durable_file::replace(&file, &text, 0o600, Durability::PageCache));
            if let Err(error) = written {
                tracing::warn!(file = %file.display(), %error, "names not stored");
            }
        }));
    }
}

struct StoredState {
    key: ObjectKey,
    service: Option<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

fn stored_state(state: &ServiceState) -> StoredState {
    StoredState {
        key: state.key.clone(),
        service: state.service.clone(),
        slices: state.slices.clone(),
    }
}

/// The parts of the objects from which the zone is built.
fn reduced(state: StoredState) -> StoredService {
    let StoredState {
        key,
        service,
        slices,
    } = state;
    let metadata = |full: &ObjectMeta| ObjectMeta {
        name: full.name.clone(),
        namespace: full.namespace.clone(),
        labels: full.labels.clone(),
        annotations: full.annotations.clone(),
        ..ObjectMeta::default()
    };
    StoredService {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        service: service.map(|service| Service {
            metadata: metadata(&service.metadata),
            spec: service.spec.clone(),
            status: None,
        }),
        slices: slices
            .iter()
            .map(|slice| EndpointSlice {
                metadata: metadata(&slice.metadata),
                ..EndpointSlice::clone(slice)
            })
            .collect(),
    }
}
