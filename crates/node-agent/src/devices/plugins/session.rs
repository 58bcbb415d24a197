//! A connected plugin: its lists of devices are followed until its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host_kernel::blocking;
use rpc_channel::{Responses, RpcError};
use service_protocols::deviceplugin_v1beta1::ListAndWatchResponse;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::calls::PluginConnection;
use super::inventory::{Devices, GRACE, Inventory, devices};
use super::resource_names::RESOURCES_MAX;
use super::{DevicePlugins, Resource};

/// Minimum time between two lists of a plugin. Further lists wait in the window of the connection.
const LIST_PAUSE: Duration = Duration::from_millis(100);

/// A connection whose lists are followed. Dropping it ends the connection.
pub struct Session {
    number: u64,
    pub connection: PluginConnection,
    lists: AbortOnDropHandle<()>,
}

/// The reason why a plugin is not connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("failed to dial device plugin: {0}")]
    Plugin(#[from] RpcError),
    #[error("the node has {RESOURCES_MAX} resources of device plugins already")]
    TooManyResources,
    #[error("the name of the resource is not stored: {0}")]
    Names(std::io::Error),
    #[error("the node agent stops")]
    Closing,
}

impl DevicePlugins {
    /// Connects to a plugin, which replaces a former plugin of the resource.
    ///
    /// # Errors
    /// The plugin does not respond, or its resource cannot be recorded.
    pub(super) async fn connect(
        self: &Arc<Self>,
        resource: &str,
        socket: &Path,
    ) -> Result<(), ConnectError> {
        let connection = PluginConnection::open(socket).await?;
        self.record_name(resource).await?;
        if self.closing.is_cancelled() {
            return Err(ConnectError::Closing);
        }
        let mut state = self.state();
        state.sessions += 1;
        let number = state.sessions;
        let lists = self
            .clone()
            .follow(resource.to_owned(), connection.clone(), number);
        let session = Session {
            number,
            connection,
            lists: AbortOnDropHandle::new(tokio::spawn(lists)),
        };
        // The devices of a former plugin stay until the first list.
        let known = state.resources.entry(resource.to_owned());
        known.or_insert_with(Resource::former).session = Some(session);
        drop(state);
        tracing::info!(resource, "a device plugin is registered");
        self.report();
        Ok(())
    }

    /// Records a new resource on disk, before the node reports it.
    async fn record_name(self: &Arc<Self>, resource: &str) -> Result<(), ConnectError> {
        let _guard = self.names_lock.lock().await;
        let mut names: Vec<String> = self.state().resources.keys().cloned().collect();
        if names.iter().any(|name| name == resource) {
            return Ok(());
        }
        if names.len() >= RESOURCES_MAX {
            return Err(ConnectError::TooManyResources);
        }
        names.push(resource.to_owned());
        let plugins = self.clone();
        let written = blocking(move || plugins.names.write(&names)).await;
        written.map_err(ConnectError::Names)?;
        let mut state = self.state();
        let known = state.resources.entry(resource.to_owned());
        known.or_insert_with(Resource::former);
        Ok(())
    }

    /// Follows the lists of a plugin until its end, and reports the end of the grace period.
    async fn follow(self: Arc<Self>, resource: String, connection: PluginConnection, number: u64) {
        let reason = match connection.lists().await {
            Ok(lists) => self.record_lists(&resource, lists, number).await,
            Err(error) => error.to_string(),
        };
        if !self.record_end(&resource, number) {
            return;
        }
        tracing::warn!(resource, reason, "a device plugin is no longer connected");
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = tokio::time::sleep(GRACE) => self.report(),
        }
    }

    /// Records lists until one fails, and returns the reason.
    async fn record_lists(
        &self,
        resource: &str,
        mut lists: Responses<ListAndWatchResponse>,
        number: u64,
    ) -> String {
        loop {
            let list = match lists.next().await {
                Ok(list) => list,
                Err(error) => return error.to_string(),
            };
            match devices(list) {
                Ok(devices) => self.record_devices(resource, devices, number),
                Err(error) => return error.to_string(),
            }
            tokio::time::sleep(LIST_PAUSE).await;
        }
    }

    fn record_devices(&self, resource: &str, devices: Devices, number: u64) {
        if let Some(resource) = self.state().resources.get_mut(resource)
            && resource.is_of(number)
        {
            resource.inventory = Inventory::Connected(devices);
        }
        self.report();
    }

    /// Records the end of a session; `false` if another session has replaced it.
    fn record_end(&self, resource: &str, number: u64) -> bool {
        let session = {
            let mut state = self.state();
            let Some(resource) = state.resources.get_mut(resource) else {
                return false;
            };
            if !resource.is_of(number) {
                return false;
            }
            resource.inventory = resource.inventory.lost(Instant::now());
            resource.session.take()
        };
        // The task of the session runs this code, and continues until the end of the grace period.
        if let Some(session) = session {
            drop(session.lists.detach());
        }
        self.report();
        true
    }
}

impl Resource {
    /// A resource whose plugin is not connected.
    pub(super) fn former() -> Self {
        Self {
            inventory: Inventory::Former,
            session: None,
        }
    }

    fn is_of(&self, number: u64) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.number == number)
    }
}
