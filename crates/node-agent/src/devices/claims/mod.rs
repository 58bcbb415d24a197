//! The node's half of dynamic resource allocation: drivers prepare the devices of ResourceClaims before the containers
//! of a pod start, and revert the preparation after the last pod of the claim
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>).
//!
//! **Guarantees**: a record of a claim is on disk before its first call, and until its drivers have reverted the
//! preparation. All calls may be repeated, so an agent that was killed between any two steps repeats or reverts the last
//! step. A claim has a lock, so a slow driver delays only pods with its devices.

mod driver;
mod prepared;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host_kernel::blocking;
use host_kernel::keyed_locks::KeyedLocks;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::resource::v1::ResourceClaim;
use object_model::{IncompleteMetadata, Uid};
use tokio_util::sync::CancellationToken;

use driver::{DraDriver, DraVersion, DriverError};
use prepared::{PreparedClaim, container_devices};
use records::ClaimRecords;

/// Interval at which preparations without pods are reverted; kubelet's value.
const LEFT_OVER_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of drivers on a node.
const DRIVERS_MAX: usize = 256;

/// The drivers of a node, and the claims that they have prepared.
pub struct DeviceClaims {
    records: ClaimRecords,
    state: Mutex<ClaimState>,
    /// One lock for each claim: only one step of a claim runs at a time.
    locks: KeyedLocks<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct ClaimState {
    drivers: BTreeMap<String, DraDriver>,
    claims: BTreeMap<Uid, ClaimEntry>,
}

struct ClaimEntry {
    claim: PreparedClaim,
    /// Whether the drivers have prepared the claim since the start of the agent.
    is_prepared: bool,
}

/// The reason why the devices of a claim are not prepared, or not reverted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("DRA driver {0} is not registered")]
    NotRegistered(String),
    #[error("resource claim {claim:?}: DRA driver {driver}: {source}")]
    Driver {
        claim: String,
        driver: String,
        source: DriverError,
    },
    #[error("the record of resource claim {claim:?}: {source}")]
    Record { claim: String, source: io::Error },
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
}

impl DeviceClaims {
    /// The claims of a former agent. `pods` are the pods that it has left; claims of other pods are reverted.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn open(directory: PathBuf, pods: &BTreeSet<Uid>) -> io::Result<Self> {
        let records = ClaimRecords::new(directory);
        let mut state = ClaimState::default();
        for mut claim in records.read()? {
            claim.pods.retain(|pod, _| pods.contains(pod));
            let is_prepared = false;
            let entry = ClaimEntry { claim, is_prepared };
            state.claims.insert(entry.claim.uid.clone(), entry);
        }
        Ok(Self {
            records,
            state: Mutex::new(state),
            locks: KeyedLocks::default(),
        })
    }

    /// Registers a driver, which replaces a former driver with the name.
    ///
    /// # Errors
    /// The reason for the driver.
    pub fn register(
        &self,
        name: &str,
        socket: PathBuf,
        versions: &[String],
        registration_socket: &Path,
    ) -> Result<(), String> {
        let driver = DraDriver {
            socket,
            version: DraVersion::newest(versions)?,
            registration_socket: registration_socket.to_owned(),
        };
        let drivers = &mut self.state().drivers;
        if !drivers.contains_key(name) && drivers.len() >= DRIVERS_MAX {
            return Err(format!("the node has {DRIVERS_MAX} drivers already"));
        }
        drivers.retain(|_, existing| existing.registration_socket != registration_socket);
        drivers.insert(name.to_owned(), driver);
        Ok(())
    }

    /// Removes the driver that registered by the socket.
    pub fn remove_driver(&self, registration_socket: &Path) {
        let drivers = &mut self.state().drivers;
        drivers.retain(|_, existing| existing.registration_socket != registration_socket);
    }

    /// The names of the registered drivers.
    pub fn drivers(&self) -> BTreeSet<String> {
        self.state().drivers.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, ClaimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn driver(&self, name: &str) -> Result<DraDriver, ClaimError> {
        let driver = self.state().drivers.get(name).cloned();
        driver.ok_or_else(|| ClaimError::NotRegistered(name.to_owned()))
    }

    /// Prepares an allocated claim for a pod, which names the claim `pod_claim`. May be repeated.
    ///
    /// # Errors
    /// A driver is not registered or has failed, or the record is not stored.
    pub async fn prepare(
        &self,
        pod: &Uid,
        pod_claim: &str,
        claim: &ResourceClaim,
    ) -> Result<(), ClaimError> {
        let new = PreparedClaim::new(claim)?;
        let uid = new.uid.clone();
        let lock = self.locks.get(uid.as_str());
        let _guard = lock.lock().await;
        let (mut claim, is_prepared) = match self.state().claims.get(&uid) {
            Some(entry) => (entry.claim.clone(), entry.is_prepared),
            None => (new, false),
        };
        let before = claim.pods.clone();
        let names = claim.pods.entry(pod.clone()).or_default();
        names.insert(pod_claim.to_owned());
        if is_prepared && claim.pods == before {
            return Ok(());
        }
        self.store(&claim, is_prepared).await?;
        if is_prepared {
            return Ok(());
        }
        for name in claim.drivers.keys().cloned().collect::<Vec<_>>() {
            let driver = self.driver(&name)?;
            let devices = driver.prepare(&claim).await;
            let devices = devices.map_err(|source| ClaimError::Driver {
                claim: claim.name.clone(),
                driver: name.clone(),
                source,
            })?;
            claim.drivers.insert(name, devices);
        }
        self.store(&claim, true).await
    }

    /// Writes the record of a claim, then changes the claim in memory.
    async fn store(&self, claim: &PreparedClaim, is_prepared: bool) -> Result<(), ClaimError> {
        let (records, written) = (self.records.clone(), claim.clone());
        let stored = blocking(move || records.write(&written)).await;
        stored.map_err(|source| ClaimError::Record {
            claim: claim.name.clone(),
            source,
        })?;
        let claim = claim.clone();
        let entry = ClaimEntry { claim, is_prepared };
        self.state().claims.insert(entry.claim.uid.clone(), entry);
        Ok(())
    }

    /// Reverts the preparations for a pod that has ended. A claim of other pods stays prepared.
    ///
    /// # Errors
    /// A driver is not registered or has failed, or the record is not stored.
    pub async fn release(&self, pod: &Uid) -> Result<(), ClaimError> {
        let uids: Vec<Uid> = {
            let state = self.state();
            let of_pod = state.claims.iter();
            let of_pod = of_pod.filter(|(_, entry)| entry.claim.pods.contains_key(pod));
            of_pod.map(|(uid, _)| uid.clone()).collect()
        };
        for uid in uids {
            self.release_claim(&uid, Some(pod)).await?;
        }
        Ok(())
    }

    /// Removes a pod from a claim, and reverts the preparation if the claim has no other pod.
    async fn release_claim(&self, uid: &Uid, pod: Option<&Uid>) -> Result<(), ClaimError> {
        let lock = self.locks.get(uid.as_str());
        let _guard = lock.lock().await;
        let entry = {
            let state = self.state();
            let entry = state.claims.get(uid);
            entry.map(|entry| (entry.claim.clone(), entry.is_prepared))
        };
        let Some((mut claim, is_prepared)) = entry else {
            return Ok(());
        };
        let others = claim
            .pods
            .keys()
            .filter(|other| Some(*other) != pod)
            .count();
        if others > 0 {
            if let Some(pod) = pod {
                claim.pods.remove(pod);
            }
            return self.store(&claim, is_prepared).await;
        }
        for name in claim.drivers.keys() {
            let driver = self.driver(name)?;
            let reverted = driver.unprepare(&claim).await;
            reverted.map_err(|source| ClaimError::Driver {
                claim: claim.name.clone(),
                driver: name.clone(),
                source,
            })?;
        }
        let (records, removed) = (self.records.clone(), uid.clone());
        let result = blocking(move || records.remove(&removed)).await;
        result.map_err(|source| ClaimError::Record {
            claim: claim.name.clone(),
            source,
        })?;
        self.state().claims.remove(uid);
        Ok(())
    }

    /// The CDI devices of a container's claims.
    ///
    /// # Errors
    /// A claim of the container is not prepared.
    pub fn of_container(&self, pod: &Uid, container: &Container) -> Result<Vec<String>, String> {
        let state = self.state();
        let claims = state.claims.values().map(|entry| &entry.claim);
        container_devices(pod, container, claims)
    }

    /// Reverts preparations whose pods a former agent has lost, until `shutdown`.
    pub async fn clean_up(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LEFT_OVER_INTERVAL) => {}
            }
            let left: Vec<Uid> = {
                let state = self.state();
                let left = state.claims.iter();
                let left = left.filter(|(_, entry)| entry.claim.pods.is_empty());
                left.map(|(uid, _)| uid.clone()).collect()
            };
            for uid in left {
                if let Err(error) = self.release_claim(&uid, None).await {
                    tracing::warn!(%uid, %error, "devices of a claim without pods stay prepared");
                }
            }
        }
    }
}
