//! The administrator's socket in the data directory, which serves backups of a running server. Only root, or
//! the server's user, may connect.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mvcc_store::Store;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use volume_storage::Storage;

use crate::backup_contents::{
    BackupContents, Request, SOCKET, Summary, collect, socket_below, write_pair,
};

/// Maximum length of a request.
const REQUEST_BYTES_MAX: u64 = 256;
/// Timeout for receiving a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Approximate size of the pieces in which objects are sent.
const PIECE_BYTES: usize = 256 * 1024;

/// The sources of a backup.
pub struct Admin {
    /// The store as on disk: encrypted objects stay encrypted.
    pub store: Arc<dyn Store>,
    /// `None` if no node runs in this process.
    pub storage: Option<Storage>,
    /// The files from which the settings of the server were read.
    pub configured_by: Vec<PathBuf>,
}

/// Listens in the data directory. The path of a socket has a maximum length, so it goes through the opened
/// directory.
pub fn listen(data: &Path) -> io::Result<UnixListener> {
    let path = data.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = File::open(data)?;
    let listener = UnixListener::bind(socket_below(&directory))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves connections to the administrator's socket until `stop` is cancelled.
pub async fn serve(admin: Admin, listener: UnixListener, stop: CancellationToken) {
    let admin = Arc::new(admin);
    // The volumes are frozen for one backup at a time.
    let backup_lock = Arc::new(Mutex::new(()));
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (admin, backup_lock, stop) = (admin.clone(), backup_lock.clone(), stop.clone());
        connections.spawn(async move {
            let answered = stop
                .run_until_cancelled(serve_connection(&admin, stream, &backup_lock))
                .await;
            if let Some(Err(error)) = answered {
                tracing::warn!("a backup was cut off: {error:#}");
            }
        });
    }
    while connections.join_next().await.is_some() {}
    if let Err(error) = thaw(&admin).await {
        tracing::warn!(%error, "snapshots for a backup are left behind");
    }
}

async fn serve_connection(
    admin: &Admin,
    stream: UnixStream,
    backup_lock: &Mutex<()>,
) -> Result<()> {
    let peer = stream.peer_cred().context("identify the client")?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        bail!("user id {peer} is not allowed to request a backup");
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    let mut request = String::new();
    let read = tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut request)).await;
    read.context("wait for the request")?
        .context("read the request")?;
    let Some(request) = Request::parse(request.trim()) else {
        return send_summary(&mut writer, &refusal("no such request")).await;
    };
    let _alone = backup_lock.lock().await;
    let contents = match collect(admin.store.as_ref(), admin.storage.as_ref(), request).await {
        Ok(contents) => contents,
        Err(error) => return send_summary(&mut writer, &refusal(&format!("{error:#}"))).await,
    };
    let sent = send(&mut writer, contents, &admin.configured_by).await;
    if sent.is_ok() {
        // The client closes the connection when it has read the volumes.
        let mut reader = reader.into_inner();
        reader.set_limit(1);
        let _end = reader.read(&mut [0]).await;
    }
    let thawed = thaw(admin).await;
    sent?;
    thawed.context("release the frozen volumes")
}

async fn thaw(admin: &Admin) -> Result<()> {
    match &admin.storage {
        Some(storage) => Ok(storage.thaw().await?),
        None => Ok(()),
    }
}

fn refusal(why: &str) -> Summary {
    Summary {
        error: Some(why.to_owned()),
        ..Summary::default()
    }
}

async fn send_summary(to: &mut (impl AsyncWriteExt + Unpin), summary: &Summary) -> Result<()> {
    let mut line = serde_json::to_vec(summary).context("encode the answer")?;
    line.push(b'\n');
    to.write_all(&line).await.context("send the answer")
}

async fn send(
    to: &mut (impl AsyncWriteExt + Unpin),
    contents: BackupContents,
    configured_by: &[PathBuf],
) -> Result<()> {
    let summary = Summary {
        configured_by: configured_by.to_vec(),
        ..contents.summary
    };
    send_summary(to, &summary).await?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    for pair in &contents.pairs {
        write_pair(&mut piece, pair).context("encode an object")?;
        if piece.len() >= PIECE_BYTES {
            to.write_all(&piece).await.context("send the objects")?;
            piece.clear();
        }
    }
    to.write_all(&piece).await.context("send the objects")?;
    to.flush().await.context("send the objects")
}
