//! Registration of drivers: a registrar creates a socket in a directory, and its driver is registered while
//! the socket exists.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use csi_client::{Driver, Plugin, RegistrationInfo};
use host_kernel::block_in_place;
use process_telemetry::backoff::Backoff;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::csi_node;
use super::drivers::Registered;
use super::volumes::CsiVolumes;

/// Interval at which the directory is read; as kubelet's reconciler.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after a failed registration, doubled after each further failure up to the maximum.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// The identity of a socket on the disk: a driver that restarts creates a socket with another identity.
type SocketId = (u64, u64, i64, i64);

/// The sockets in the directory; empty if the directory does not exist. Other files are skipped.
fn sockets(dir: &Path) -> io::Result<BTreeMap<PathBuf, SocketId>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let Ok(meta) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if !hidden && meta.file_type().is_socket() {
            let id = (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec());
            found.insert(entry.path(), id);
        }
    }
    Ok(found)
}

/// A socket, and the task that registers the driver behind it.
struct Attended {
    id: SocketId,
    task: AbortOnDropHandle<()>,
}

/// Registers drivers until `shutdown`. Each socket has a task, so a socket that does not respond delays no
/// other socket.
pub async fn watch_plugins(volumes: Arc<CsiVolumes>, shutdown: CancellationToken) {
    let registry = volumes.directory().registry();
    let mut attended: BTreeMap<PathBuf, Attended> = BTreeMap::new();
    loop {
        match block_in_place(|| sockets(&registry)) {
            Ok(found) => attend_to(&volumes, &mut attended, &found).await,
            Err(error) => tracing::warn!(%error, "the directory of drivers cannot be read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// Starts tasks for new sockets, and stops the tasks of deleted sockets.
async fn attend_to(
    volumes: &Arc<CsiVolumes>,
    attended: &mut BTreeMap<PathBuf, Attended>,
    found: &BTreeMap<PathBuf, SocketId>,
) {
    let left = attended.extract_if(.., |path, known| found.get(path) != Some(&known.id));
    let left: Vec<(PathBuf, Attended)> = left.collect();
    for (_, Attended { task, .. }) in left.iter() {
        task.abort();
    }
    let mut gone = Vec::new();
    for (path, Attended { task, .. }) in left {
        // The aborted task has ended now, so it cannot add a driver any more.
        drop(task.await);
        if !found.contains_key(&path) {
            gone.push(path);
        }
    }
    let new: Vec<&PathBuf> = found
        .keys()
        .filter(|path| !attended.contains_key(*path))
        .collect();
    volumes.drivers().record_sockets(new.iter().copied(), &gone);
    for path in &gone {
        if let Some(driver) = volumes.drivers().remove(path) {
            tracing::info!(driver, "a CSI driver is no longer registered");
        }
    }
    for path in new {
        let task = tokio::spawn(attend(volumes.clone(), path.clone()));
        let attendance = Attended {
            id: found[path],
            task: AbortOnDropHandle::new(task),
        };
        attended.insert(path.clone(), attendance);
    }
}

/// The reason why a driver is not registered.
#[derive(Debug, thiserror::Error)]
enum NotRegistered {
    /// The registrar does not respond, or its response is invalid.
    #[error("{0}")]
    Refused(String),
    /// Another driver is registered with the name.
    #[error(
        "another driver with the name {name} is registered already by the socket {}",
        by.display()
    )]
    Taken { name: String, by: PathBuf },
}

impl From<String> for NotRegistered {
    fn from(words: String) -> Self {
        Self::Refused(words)
    }
}

impl From<csi_client::CsiError> for NotRegistered {
    fn from(error: csi_client::CsiError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Registers the driver of a socket. Retries until the registration succeeds.
async fn attend(volumes: Arc<CsiVolumes>, socket: PathBuf) {
    let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
    loop {
        let done = register(&volumes, &socket).await;
        volumes.drivers().answered(&socket);
        let Err(error) = done else {
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
                NotRegistered::Refused(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = is_free => {}
            () = tokio::time::sleep(backoff.fail()) => {}
        }
    }
}

async fn register(volumes: &CsiVolumes, socket: &Path) -> Result<(), NotRegistered> {
    let plugin = Plugin {
        socket: socket.to_owned(),
    };
    let info = match plugin.info().await {
        Ok(info) => info,
        Err(error) => {
            if !error.is_silence() {
                // A new program may listen at the socket.
                volumes.drivers().remove(socket);
                tell(&plugin, Err(&error.to_string())).await;
            }
            return Err(error.into());
        }
    };
    let name = info.name.clone();
    let registered = take_up(volumes, socket, info).await;
    let refusal = registered.as_ref().err().map(ToString::to_string);
    tell(&plugin, refusal.as_deref().map_or(Ok(()), Err)).await;
    registered?;
    tracing::info!(driver = name, "a CSI driver is registered");
    volumes.left_over().retry_now();
    Ok(())
}

/// Sends the result to the registrar, which logs the error or exits with it.
async fn tell(plugin: &Plugin, result: Result<(), &str>) {
    if let Err(error) = plugin.notify(result).await {
        let path = plugin.socket.display().to_string();
        tracing::warn!(path, %error, "a registrar does not hear of its registration");
    }
}

async fn take_up(
    volumes: &CsiVolumes,
    by: &Path,
    RegistrationInfo { name, endpoint }: RegistrationInfo,
) -> Result<(), NotRegistered> {
    let socket = volumes.directory().real(&endpoint);
    let socket = socket.ok_or_else(|| {
        let endpoint = endpoint.display();
        format!("the socket {endpoint} of the driver is not below /var/lib/kubelet")
    })?;
    let turn = volumes.drivers().turn(&name);
    let _turn = turn.lock().await;
    let former = volumes.drivers().get(&name).ok();
    if let Some(former) = former.filter(|former| former.by != by)
        && is_there(&former.by).await
    {
        return Err(NotRegistered::Taken {
            name,
            by: former.by,
        });
    }
    let driver = Driver {
        name: name.clone(),
        socket,
    };
    let info = driver.node_info().await?;
    let can = driver.node_capabilities().await?;
    csi_node::publish(volumes.client(), volumes.node(), &name, &info).await?;
    volumes.drivers().add(Registered {
        driver,
        can,
        info,
        by: by.to_owned(),
    });
    Ok(())
}

/// Whether a program listens at the socket.
async fn is_there(socket: &Path) -> bool {
    let socket = socket.to_owned();
    let answer = Plugin { socket }.info().await;
    !matches!(answer, Err(csi_client::CsiError::Unreachable { .. }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_sockets_are_drivers() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        assert!(sockets(&at("none")).unwrap().is_empty());
        fs::write(at("file.sock"), "").unwrap();
        fs::create_dir(at("directory.sock")).unwrap();
        let _hidden = UnixListener::bind(at(".hidden.sock")).unwrap();
        let _driver = UnixListener::bind(at("driver.sock")).unwrap();
        symlink(at("driver.sock"), at("link.sock")).unwrap();
        let found: Vec<PathBuf> = sockets(temp.path()).unwrap().into_keys().collect();
        assert_eq!(found, [at("driver.sock")]);
    }
}
