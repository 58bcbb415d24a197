//! Copies objects from etcd into a data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use command_output::failed_step::{FailedStep, StepContext};
use command_output::output::print_line;
use control_plane::host::Host;
use control_plane::{ClusterNetwork, EtcdAddress, NETWORK_RECORD, TokenFile, shared_keys};
use data_directory::process;
use data_directory::{Engine, Marker, Role};
use etcd_store::copy::PrefixContents;
use host_kernel::block_in_place;
use mvcc_store::embedded::{EmbeddedOptions, EmbeddedStore, import};
use mvcc_store::{KeyValue, Range, Revision, Store};

use super::{Contents, at, connect};
use crate::checksum::Checksum;
use crate::error::{BackupError, Result};
use crate::require_empty;

/// The wait that shows that no server runs: each server writes its Lease every five seconds.
const QUIET: Duration = Duration::from_secs(12);
/// The temporary name of the store until it is complete.
const UNFINISHED: &str = "store.unfinished";

/// Copies the objects of the etcd, whose servers are stopped.
pub async fn run(address: &EtcdAddress, data: &Path, token: Option<PathBuf>) -> Result<()> {
    let host = Host::inspect()?;
    let to = format!("{} on {}", data.display(), host.name);
    let former = former(data)?;
    let etcd = connect(address).await?;
    let existing = etcd.contents().await.map_err(at(address))?;
    if let PrefixContents::Moved { to: moved } = &existing
        && *moved != to
    {
        return Err(BackupError::Moved {
            url: address.url.clone(),
            to: moved.clone(),
        });
    }
    let pairs = etcd.pairs().await.map_err(at(address))?;
    let Some(instance) = super::instance(&pairs) else {
        return Err(super::no_cluster(address));
    };
    if let Some(former) = &former
        && former.instance != instance
    {
        return Err(BackupError::OtherCluster {
            in_etcd: instance,
            in_directory: former.instance.clone(),
        });
    }
    let mut marker = match former {
        Some(former) => former,
        None => {
            let role = (Role::Server, Engine::Etcd);
            let instances = Path::new(pod_network::INSTANCES);
            data_directory::claim(data, &host.name, role, instances)?.marker
        }
    };
    (marker.instance, marker.cluster) = (instance.clone(), true);
    if has_store(data) {
        let PrefixContents::Moved { .. } = existing else {
            return Err(BackupError::HasStore(data.to_owned()));
        };
        finish(data, marker)?;
        report_next_step(data);
        return Ok(());
    }
    print_line(&format!(
        "waiting {} s to see whether a server uses the etcd",
        QUIET.as_secs()
    ));
    tokio::time::sleep(QUIET).await;
    if !etcd.is_unchanged(&pairs).await.map_err(at(address))? {
        return Err(BackupError::EtcdInUse(address.url.clone()));
    }
    let contents = super::contents(&pairs, instance);
    let file = TokenFile::choose(token, data);
    let copied = block_in_place(|| install(data, &mut marker, &contents, &file))?;
    verify(data, contents.revision, &copied).await?;
    etcd.leave(&pairs, &to).await.map_err(at(address))?;
    print_line(&format!(
        "{}: {} objects of {}, verified (SHA-256 {}), resource versions above {}",
        data.display(),
        copied.count,
        address.url,
        copied.sha256,
        pairs.revision.0
    ));
    block_in_place(|| rename_into_use(data, marker))?;
    report_next_step(data);
    Ok(())
}

/// Prints how to start the server on the copied objects.
fn report_next_step(data: &Path) {
    print_line(&format!(
        "Start it with: mainstay server --data-dir {}",
        data.display()
    ));
}

/// Writes the files of a cluster into a data directory, with the objects under the temporary name.
pub fn install(
    data: &Path,
    marker: &mut Marker,
    contents: &Contents,
    file: &TokenFile,
) -> Result<Checksum> {
    let value_of = |key: &[u8]| {
        let mut pairs = contents.pairs.iter();
        pairs.find(|pair| *pair.key == *key)
    };
    let keys = value_of(shared_keys::KEY).ok_or(BackupError::KeysMissing)?;
    let network = value_of(NETWORK_RECORD).ok_or(BackupError::RangesMissing)?;
    let network: ClusterNetwork =
        serde_json::from_slice(&network.value).context("decode the ranges of the cluster")?;
    let keys = shared_keys::unseal(&keys.value, file, &data.join("certificates"))?;
    data_directory::make(data)?;
    marker.engine = Engine::Etcd;
    marker.write(data)?;
    keys.install(&data.join("certificates"))?;
    network.store(data)?;
    fill(data, contents)
}

/// Renames the store to its final name, so that servers start on the directory.
pub fn rename_into_use(data: &Path, marker: Marker) -> Result<()> {
    fs::rename(data.join(UNFINISHED), data.join("store"))
        .context("move the store into the data directory")?;
    finish(data, marker)
}

fn has_store(data: &Path) -> bool {
    data.join("store").exists()
}

/// The marker of a directory that a server of the etcd has used, or of an interrupted copy; `None` for an
/// empty directory.
fn former(data: &Path) -> Result<Option<Marker>> {
    if let Some(server) = process::serving(data) {
        let text = process::runs_already(data, server);
        return Err(BackupError::ServerRuns(text));
    }
    match Marker::read(data) {
        Ok(Some(marker)) if marker.engine == Engine::Etcd && marker.role != Role::Node => {
            Ok(Some(marker))
        }
        _ => require_empty(data).map(|()| None),
    }
}

/// Writes the store under its temporary name.
fn fill(data: &Path, contents: &Contents) -> Result<Checksum> {
    let store_path = data.join(UNFINISHED);
    match fs::remove_dir_all(&store_path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let step = format!("remove {}", store_path.display());
            return Err(FailedStep::new(step, error).into());
        }
        _ => {}
    }
    let records = [shared_keys::KEY, NETWORK_RECORD];
    let copied = contents
        .pairs
        .iter()
        .filter(|pair| !records.contains(&pair.key.as_ref()));
    let copied: Vec<&KeyValue> = copied.collect();
    let expected = Checksum::compute(copied.iter().copied()).context("encode an object")?;
    let copies = copied.into_iter().map(|pair| Ok(pair.clone()));
    import(&store_path, contents.revision, copies).context("write the objects")?;
    Ok(expected)
}

/// Reads the written store, and compares it with the source.
pub async fn verify(data: &Path, revision: Revision, expected: &Checksum) -> Result<()> {
    let store_path = data.join(UNFINISHED);
    let store = EmbeddedStore::open(EmbeddedOptions::new(&store_path)).context("open the copy")?;
    let everything = Range {
        end: Some(vec![u8::MAX]),
        ..Range::default()
    };
    let read = store.range(everything).await;
    store.close();
    let read = read.context("read the copy")?;
    if read.revision != revision {
        return Err(BackupError::OtherRevision {
            actual: read.revision,
            expected: revision,
        });
    }
    let actual = Checksum::compute(read.items.iter()).context("encode an object")?;
    if actual != *expected {
        return Err(BackupError::CopyDiffers {
            store: store_path,
            actual,
            expected: expected.clone(),
        });
    }
    Ok(())
}

/// Writes the marker and renames the store, so that servers start on the directory.
fn finish(data: &Path, mut marker: Marker) -> Result<()> {
    marker.engine = Engine::Embedded;
    marker.write(data)?;
    let directory = fs::File::open(data).context("sync the data directory")?;
    Ok(rustix::fs::syncfs(&directory).context("sync the data directory")?)
}
