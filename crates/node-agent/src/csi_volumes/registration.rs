//! Registration of drivers: their registrars put a socket into a directory, and a driver is registered
//! as long as its socket is there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use container_runtime::beside;
use csi::{Driver, Plugin};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::csi_node;
use super::drivers::Registered;
use super::volumes::CsiVolumes;

/// Interval of the looks into the directory; kubelet's reconciler has the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed registration, doubled each time up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// A socket by its place on the disk: a driver that was started again has another one.
type SocketId = (u64, u64, i64, i64);

/// The sockets in the directory. A directory that is not there has none; other files are left out.
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

/// The state of a socket.
struct Known {
    id: SocketId,
    /// The next attempt, and the pause after it; `None` if it is registered.
    retry: Option<(Instant, Duration)>,
}

/// Registers drivers until `shutdown`.
pub async fn watch_plugins(volumes: Arc<CsiVolumes>, shutdown: CancellationToken) {
    let registry = volumes.directory().registry();
    let mut known: BTreeMap<PathBuf, Known> = BTreeMap::new();
    loop {
        let found = match beside(|| sockets(&registry)) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the directory of drivers cannot be read");
                BTreeMap::new()
            }
        };
        let gone: Vec<PathBuf> = known
            .iter()
            .filter(|(path, known)| found.get(*path) != Some(&known.id))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            known.remove(&path);
            if !found.contains_key(&path) {
                withdraw(&volumes, &path).await;
            }
        }
        for (path, id) in found {
            let state = known.entry(path.clone()).or_insert(Known {
                id,
                retry: Some((Instant::now(), PAUSE)),
            });
            let Some((at, pause)) = state.retry else {
                continue;
            };
            if at > Instant::now() {
                continue;
            }
            state.retry = match register(&volumes, &path).await {
                Ok(()) => None,
                Err(error) => {
                    let path = path.display().to_string();
                    tracing::warn!(path, error, "a driver is not registered");
                    Some((Instant::now() + pause, PAUSE_MAX.min(pause * 2)))
                }
            };
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

async fn register(volumes: &CsiVolumes, socket: &Path) -> Result<(), String> {
    let plugin = Plugin {
        socket: socket.to_owned(),
    };
    let info = plugin.info().await.map_err(|error| error.to_string())?;
    let registered = take_up(volumes, socket, info.name.clone(), &info.endpoint).await;
    let told = plugin.notify(registered.as_ref().map(|_| ()).map_err(String::as_str));
    if let Err(error) = told.await {
        tracing::warn!(driver = info.name, %error, "a driver does not hear of its registration");
    }
    registered?;
    tracing::info!(driver = info.name, "a CSI driver is registered");
    volumes.clean_up().await;
    Ok(())
}

async fn take_up(
    volumes: &CsiVolumes,
    by: &Path,
    name: String,
    endpoint: &Path,
) -> Result<(), String> {
    let socket = volumes.directory().real(endpoint);
    let socket = socket.ok_or_else(|| {
        let endpoint = endpoint.display();
        format!("the socket {endpoint} of the driver is not below /var/lib/kubelet")
    })?;
    let driver = Driver {
        name: name.clone(),
        socket,
    };
    let text = |error: csi::CsiError| error.to_string();
    let info = driver.node_info().await.map_err(text)?;
    let can = driver.node_capabilities().await.map_err(text)?;
    csi_node::publish(volumes.client(), volumes.node(), &name, &info).await?;
    let by = by.to_owned();
    volumes.drivers().add(Registered { driver, can, by });
    Ok(())
}

async fn withdraw(volumes: &CsiVolumes, socket: &PathBuf) {
    let Some(name) = volumes.drivers().remove(socket) else {
        return;
    };
    tracing::info!(driver = name, "a CSI driver is no longer registered");
    let done = csi_node::withdraw(volumes.client(), volumes.node(), &name).await;
    if let Err(error) = done {
        tracing::warn!(driver = name, error, "a driver that is gone is still shown");
    }
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
