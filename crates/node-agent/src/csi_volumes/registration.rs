//! Registration of plugins: a registrar creates a socket in a directory, and its plugin is registered while
//! the socket exists. CSI drivers are registered here, plugins for devices by [`DevicePluginRegistry`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use csi_client::{Driver, Plugin, PluginType, RegistrationInfo};
use futures::future::BoxFuture;
use host_kernel::block_in_place;
use process_telemetry::backoff::Backoff;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::csi_node::{self, CsiNodeError};
use super::drivers::RegisteredDriver;
use super::volumes::CsiVolumes;

/// Interval at which the directory is read; as kubelet's reconciler.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after a failed registration, doubled after each further failure up to the maximum.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(120);

/// The identity of a socket on the disk: a driver that restarts creates a socket with another identity.
type SocketId = (u64, u64, i64, i64);

/// The sockets in the directory; empty if the directory does not exist. Other files are skipped.
fn sockets(dir: &Path) -> io::Result<BTreeMap<PathBuf, SocketId>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut sockets = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let Ok(meta) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if !is_hidden && meta.file_type().is_socket() {
            let id = (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec());
            sockets.insert(entry.path(), id);
        }
    }
    Ok(sockets)
}

/// A socket, and the task that registers the driver behind it.
struct SocketRegistration {
    id: SocketId,
    task: AbortOnDropHandle<()>,
}

/// The plugins for devices that register by the directory.
pub trait DevicePluginRegistry: Send + Sync {
    /// Registers a plugin. The error is for the registrar.
    fn register<'a>(
        &'a self,
        registration_socket: &'a Path,
        info: RegistrationInfo,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Removes the plugin that registered by the socket.
    fn remove(&self, registration_socket: &Path);
}

/// The registered plugins of all types.
#[derive(Clone)]
struct Registries {
    volumes: Arc<CsiVolumes>,
    devices: Arc<dyn DevicePluginRegistry>,
}

impl Registries {
    fn remove(&self, registration_socket: &Path) {
        self.devices.remove(registration_socket);
        if let Some(driver) = self.volumes.drivers().remove(registration_socket) {
            tracing::info!(driver, "a CSI driver is no longer registered");
        }
    }
}

/// Registers plugins until `shutdown`. Each socket has a task, so a socket that does not respond delays no
/// other socket.
pub async fn watch_plugins(
    volumes: Arc<CsiVolumes>,
    devices: Arc<dyn DevicePluginRegistry>,
    shutdown: CancellationToken,
) {
    let registry = volumes.directory().registry();
    let registries = Registries { volumes, devices };
    let mut registrations: BTreeMap<PathBuf, SocketRegistration> = BTreeMap::new();
    loop {
        match block_in_place(|| sockets(&registry)) {
            Ok(present) => update_tasks(&registries, &mut registrations, &present).await,
            Err(error) => tracing::warn!(%error, "the directory of drivers cannot be read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(READ_INTERVAL) => {}
        }
    }
}

/// Starts tasks for new sockets, and stops the tasks of deleted sockets.
async fn update_tasks(
    registries: &Registries,
    registrations: &mut BTreeMap<PathBuf, SocketRegistration>,
    present: &BTreeMap<PathBuf, SocketId>,
) {
    let has_changed = |path: &PathBuf, registration: &mut SocketRegistration| {
        present.get(path) != Some(&registration.id)
    };
    let stopped: Vec<(PathBuf, SocketRegistration)> =
        registrations.extract_if(.., has_changed).collect();
    for (_, SocketRegistration { task, .. }) in stopped.iter() {
        task.abort();
    }
    let mut deleted = Vec::new();
    for (path, SocketRegistration { task, .. }) in stopped {
        // The aborted task has ended now, so it cannot add a driver any more.
        drop(task.await);
        if !present.contains_key(&path) {
            deleted.push(path);
        }
    }
    let new_sockets: Vec<&PathBuf> = present
        .keys()
        .filter(|path| !registrations.contains_key(*path))
        .collect();
    let drivers = registries.volumes.drivers();
    drivers.record_sockets(new_sockets.iter().copied(), &deleted);
    for path in &deleted {
        registries.remove(path);
    }
    for path in new_sockets {
        let task = tokio::spawn(keep_registering(registries.clone(), path.clone()));
        let registration = SocketRegistration {
            id: present[path],
            task: AbortOnDropHandle::new(task),
        };
        registrations.insert(path.clone(), registration);
    }
}

/// The reason why a driver is not registered.
#[derive(Debug, thiserror::Error)]
enum NotRegistered {
    /// The registrar or the driver does not respond, or its response is invalid.
    #[error(transparent)]
    Driver(#[from] csi_client::CsiError),
    #[error("the socket {} of the driver is not below /var/lib/kubelet", .0.display())]
    SocketOutside(PathBuf),
    #[error(transparent)]
    CsiNode(#[from] CsiNodeError),
    /// Another driver is registered with the name.
    #[error(
        "another driver with the name {name} is registered already by the socket {}",
        registration_socket.display()
    )]
    Taken {
        name: String,
        registration_socket: PathBuf,
    },
    /// The reason why a plugin for devices is not registered.
    #[error("{0}")]
    DevicePlugin(String),
}

/// Registers the driver of a socket. Retries until the registration succeeds.
async fn keep_registering(registries: Registries, socket: PathBuf) {
    let mut backoff = Backoff::new(FIRST_DELAY, DELAY_MAX);
    let volumes = &registries.volumes;
    loop {
        let result = register(&registries, &socket).await;
        volumes.drivers().record_response(&socket);
        let Err(error) = result else {
            return;
        };
        let path = socket.display().to_string();
        tracing::warn!(
            path,
            error = error.to_string(),
            "a driver is not registered"
        );
        let mut changes = volumes.drivers().changes();
        let is_free = async {
            match error {
                NotRegistered::Taken { .. } => changes.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = is_free => {}
            () = tokio::time::sleep(backoff.fail()) => {}
        }
    }
}

async fn register(registries: &Registries, socket: &Path) -> Result<(), NotRegistered> {
    let plugin = Plugin {
        socket: socket.to_owned(),
    };
    let info = match plugin.info().await {
        Ok(info) => info,
        Err(error) => {
            if !error.is_silence() {
                // A new program may listen at the socket.
                registries.remove(socket);
                notify(&plugin, Err(&error.to_string())).await;
            }
            return Err(error.into());
        }
    };
    let (plugin_type, name) = (info.plugin_type, info.name.clone());
    let result = match plugin_type {
        PluginType::Csi => register_driver(&registries.volumes, socket, info).await,
        PluginType::Device | PluginType::Dra => {
            let registered = registries.devices.register(socket, info).await;
            registered.map_err(NotRegistered::DevicePlugin)
        }
    };
    let refusal = result.as_ref().err().map(ToString::to_string);
    notify(&plugin, refusal.as_deref().map_or(Ok(()), Err)).await;
    result?;
    tracing::info!(plugin = name, ?plugin_type, "a plugin is registered");
    registries.volumes.left_over().retry_now();
    Ok(())
}

/// Sends the result to the registrar, which logs the error or exits with it.
async fn notify(plugin: &Plugin, result: Result<(), &str>) {
    if let Err(error) = plugin.notify(result).await {
        let path = plugin.socket.display().to_string();
        tracing::warn!(path, %error, "a registrar is not notified of its registration");
    }
}

async fn register_driver(
    volumes: &CsiVolumes,
    registration_socket: &Path,
    RegistrationInfo { name, endpoint, .. }: RegistrationInfo,
) -> Result<(), NotRegistered> {
    let socket = volumes.directory().node_path(&endpoint);
    let socket = socket.ok_or(NotRegistered::SocketOutside(endpoint))?;
    let lock = volumes.drivers().lock(&name);
    let _guard = lock.lock().await;
    let former = volumes.drivers().get(&name).ok();
    if let Some(former) = former.filter(|former| former.registration_socket != registration_socket)
        && is_listening(&former.registration_socket).await
    {
        return Err(NotRegistered::Taken {
            name,
            registration_socket: former.registration_socket,
        });
    }
    let driver = Driver {
        name: name.clone(),
        socket,
    };
    let info = driver.node_info().await?;
    let capabilities = driver.node_capabilities().await?;
    csi_node::publish(volumes.client(), volumes.node(), &name, &info).await?;
    volumes.drivers().add(RegisteredDriver {
        driver,
        capabilities,
        info,
        registration_socket: registration_socket.to_owned(),
    });
    Ok(())
}

/// Whether a program listens at the socket.
async fn is_listening(socket: &Path) -> bool {
    let socket = socket.to_owned();
    let response = Plugin { socket }.info().await;
    !matches!(response, Err(csi_client::CsiError::Unreachable { .. }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_sockets_are_drivers() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        assert!(sockets(&path("none")).unwrap().is_empty());
        fs::write(path("file.sock"), "").unwrap();
        fs::create_dir(path("directory.sock")).unwrap();
        let _hidden = UnixListener::bind(path(".hidden.sock")).unwrap();
        let _driver = UnixListener::bind(path("driver.sock")).unwrap();
        symlink(path("driver.sock"), path("link.sock")).unwrap();
        let paths: Vec<PathBuf> = sockets(temp.path()).unwrap().into_keys().collect();
        assert_eq!(paths, [path("driver.sock")]);
    }
}
