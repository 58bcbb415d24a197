//! Copies objects from a data directory into etcd.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use command_output::failed_step::StepContext;
use command_output::output::print_line;
use control_plane::{EtcdAddress, RequestedNetwork, TokenFile, shared_keys, store};
use data_directory::process;
use data_directory::{Engine, Marker, Role};
use etcd_store::copy::{EtcdCopy, PrefixContents, StartedCopy};
use host_kernel::block_in_place;
use mvcc_store::{KeyValue, Omittable, Range, Revision};

use super::{at, connect};
use crate::checksum::Checksum;
use crate::error::{BackupError, Result};

/// The name of the store in the data directory after the copy.
const FORMER: &str = "store.copied-to-etcd";

/// Copies the objects of the stopped server in the directory.
pub async fn run(data: &Path, address: &EtcdAddress, token: Option<PathBuf>) -> Result<()> {
    let mut marker = marker(data)?;
    let etcd = connect(address).await?;
    let existing = etcd.contents().await.map_err(at(address))?;
    let is_finishing =
        marker.engine == Engine::Etcd && matches!(existing, PrefixContents::Data { .. });
    if is_finishing
        && instance_of(&etcd).await.map_err(at(address))? == Some(marker.instance.clone())
    {
        return retire_store(data, address, token.as_deref());
    }
    check_target(&existing, address, &marker.instance)?;
    let store = store::open(data, None).await?;
    let everything = Range {
        end: Some(vec![u8::MAX]),
        ..Range::default()
    };
    let read = store.shared().range(everything).await;
    let read = read.context("read the store")?;
    let copied = async {
        let file = TokenFile::choose(token.clone(), data);
        let records = block_in_place(|| records(data, &file, read.revision))?;
        let pairs = merge(read.items, records);
        let (etcd, begun, copied) = fill(etcd, address, &marker.instance, &pairs).await?;
        // From now on, no server uses the store in the directory.
        marker.engine = Engine::Etcd;
        block_in_place(|| marker.write(data))?;
        let completed = etcd.complete(begun, read.revision).await;
        completed.map_err(at(address))?;
        Ok::<_, BackupError>(copied)
    };
    let copied = copied.await;
    store.close().await;
    let copied = copied?;
    print_line(&format!(
        "{}: {} objects of {}, verified (SHA-256 {}), resource versions above {}",
        address.url,
        copied.count,
        data.display(),
        copied.sha256,
        read.revision.0
    ));
    retire_store(data, address, token.as_deref())
}

/// Writes all pairs into an etcd without data, reads them back and compares.
pub async fn fill(
    mut etcd: EtcdCopy,
    address: &EtcdAddress,
    instance: &str,
    pairs: &[KeyValue],
) -> Result<(EtcdCopy, StartedCopy, Checksum)> {
    let expected = Checksum::compute(pairs.iter()).context("encode an object")?;
    let begun = etcd.begin(instance).await.map_err(at(address))?;
    for pair in pairs {
        etcd.put(&begun, pair).await.map_err(at(address))?;
    }
    let written = etcd.finish(&begun).await.map_err(at(address))?;
    let actual =
        Checksum::compute(written.values().map(Arc::as_ref)).context("encode an object")?;
    if actual != expected {
        return Err(BackupError::EtcdDiffers { actual, expected });
    }
    Ok((etcd, begun, actual))
}

/// The marker of a directory with objects, whose server is stopped.
fn marker(data: &Path) -> Result<Marker> {
    let marker = marker_with_objects(data)?;
    if let Some(server) = process::serving(data) {
        let text = process::runs_already(data, server);
        return Err(BackupError::StoreInUse(text));
    }
    Ok(marker)
}

/// The marker of a directory with objects.
pub fn marker_with_objects(data: &Path) -> Result<Marker> {
    let Ok(Some(marker)) = Marker::read(data) else {
        return Err(BackupError::NotMarked(data.to_owned()));
    };
    if marker.role == Role::Node {
        return Err(BackupError::OfNode(data.to_owned()));
    }
    if !data.join("store/data").exists() {
        return Err(match marker.engine {
            Engine::Etcd => BackupError::AlreadyInEtcd(data.to_owned()),
            Engine::Embedded => BackupError::NoStore(data.to_owned()),
        });
    }
    Ok(marker)
}

/// Refuses an etcd with data, except for the data of an interrupted copy of this instance.
pub fn check_target(
    existing: &PrefixContents,
    address: &EtcdAddress,
    local_instance: &str,
) -> Result<()> {
    let (url, prefix) = (address.url.clone(), address.prefix.clone());
    match existing {
        PrefixContents::Nothing => Ok(()),
        PrefixContents::Incomplete { instance } if instance == local_instance => Ok(()),
        PrefixContents::Incomplete { instance } => Err(BackupError::InterruptedCopy {
            url,
            prefix,
            instance: instance.clone(),
            local_instance: local_instance.to_owned(),
        }),
        PrefixContents::Data { keys } => Err(BackupError::EtcdNotEmpty {
            url,
            prefix,
            keys: *keys,
        }),
        PrefixContents::Moved { to } => Err(BackupError::FormerObjects {
            url,
            prefix,
            to: to.clone(),
        }),
    }
}

/// The records that servers of an etcd share; a single server has the same data in files.
pub fn records(data: &Path, token: &TokenFile, revision: Revision) -> Result<[KeyValue; 2]> {
    let network = control_plane::choose_network(data, &RequestedNetwork::default())?;
    let record = |key: &[u8], value: Vec<u8>| KeyValue {
        key: Arc::from(key),
        value: Bytes::from(value),
        create_revision: revision,
        mod_revision: revision,
        lease: None,
        omittable: Omittable::UNKNOWN,
    };
    let keys = shared_keys::seal(token, &data.join("certificates"))?;
    let network_text = serde_json::to_vec(&network).context("encode the ranges")?;
    Ok([
        record(shared_keys::KEY, keys),
        record(control_plane::NETWORK_RECORD, network_text),
    ])
}

/// All pairs without a lease, in the order of their keys; the records replace older records.
pub fn merge(stored: Vec<KeyValue>, records: [KeyValue; 2]) -> Vec<KeyValue> {
    let all = stored.into_iter().filter(|pair| pair.lease.is_none());
    let by_key = all
        .chain(records)
        .map(|pair| (Arc::clone(&pair.key), pair))
        .collect::<BTreeMap<_, _>>();
    by_key.into_values().collect()
}

/// The id of the instance whose objects are in etcd.
async fn instance_of(etcd: &EtcdCopy) -> Result<Option<String>, etcd_store::copy::CopyError> {
    let pairs = etcd.pairs().await?;
    Ok(super::instance(&pairs))
}

/// Renames the former store, so that only a server with `--store` starts on the directory.
fn retire_store(data: &Path, address: &EtcdAddress, token: Option<&Path>) -> Result<()> {
    let names = (0..).map(|number| match number {
        0 => data.join(FORMER),
        _ => data.join(format!("{FORMER}.{number}")),
    });
    let mut free = names.filter(|path| !path.exists());
    let former = free.next().ok_or(BackupError::NoFreeName)?;
    let renamed = fs::rename(data.join("store"), &former);
    renamed.with_context(|| format!("rename the store of {}", data.display()))?;
    let directory = fs::File::open(data).and_then(|data| data.sync_all());
    directory.with_context(|| format!("sync {}", data.display()))?;
    let token = token.map(|token| format!(" --server-token-file {}", token.display()));
    print_line(&format!(
        "The former store is {}, and is not needed any more. Start the first server on the same data \
         directory: mainstay server {}{} --data-dir {}",
        former.display(),
        address.flags(),
        token.unwrap_or_default(),
        data.display()
    ));
    Ok(())
}
