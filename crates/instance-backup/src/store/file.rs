//! The objects of a cluster in a file, independent of their engine.
//!
//! The file is an archive as that of a whole instance, with a header and the objects. It has the records that
//! servers of an etcd share: the certificate authority and the keys, encrypted under the server token, and
//! the ranges of addresses.

use std::io::BufReader;
use std::path::Path;

use command_output::failed_step::StepContext;
use command_output::output::print_line;
use control_plane::backup_contents::{Objects, Request, Source, records};
use control_plane::host::Host;
use control_plane::{EtcdAddress, TokenFile};
use data_directory::process;
use data_directory::{Engine, Role};
use etcd_store::copy::PrefixContents;
use file_archive::Writer;
use host_kernel::block_in_place;
use jiff::Timestamp;
use mvcc_store::{KeyValue, Revision};
use serde::{Deserialize, Serialize};

use super::{Contents, StoreLocation, at, connect, into_directory, into_etcd};
use crate::checksum::Checksum;
use crate::error::{BackupError, Result};
use crate::{REVISIONS_LEFT_OUT, require_empty, write_whole};

const HEADER: &str = "store-backup.json";
/// The entry with the objects, each in a frame.
const OBJECTS: &str = "objects";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// The contents of the first entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    instance: String,
    role: Role,
    /// The URL of the etcd, or the path of the data directory.
    made_of: String,
    made_by: String,
    made_at: Timestamp,
    revision: u64,
    objects: usize,
    sha256: String,
}

/// Writes a backup of a store that no server uses, or of a store in etcd.
///
/// # Errors
/// The location has no cluster, or an error of the disk or of etcd.
pub async fn back_up(location: &StoreLocation, file: &Path) -> Result<()> {
    let (contents, role, made_of) = match location {
        StoreLocation::Etcd(address) => (
            read_etcd(address).await?,
            Role::Server,
            address.url.to_string(),
        ),
        StoreLocation::Directory { data, token } => {
            let (contents, role) = read_directory(data, token).await?;
            (contents, role, data.display().to_string())
        }
    };
    let target = std::path::absolute(file).with_context(|| format!("write {}", file.display()))?;
    let sum = Checksum::compute(contents.pairs.iter()).context("encode an object")?;
    let header = Header {
        format: FORMAT,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: Timestamp::now(),
        made_of,
        instance: contents.instance.clone(),
        role,
        revision: contents.revision.0,
        objects: sum.count,
        sha256: sum.sha256.clone(),
    };
    block_in_place(|| write(&target, &header, &contents.pairs))?;
    print_line(&format!(
        "{}: {} objects of {} at resource version {} (SHA-256 {})",
        target.display(),
        sum.count,
        header.made_of,
        header.revision,
        sum.sha256
    ));
    Ok(())
}

/// Reads the objects of running or stopped servers in etcd.
async fn read_etcd(address: &EtcdAddress) -> Result<Contents> {
    let etcd = connect(address).await?;
    let url = &address.url;
    if let PrefixContents::Moved { to } = etcd.contents().await.map_err(at(address))? {
        let url = url.clone();
        return Err(BackupError::Moved { url, to });
    }
    let pairs = etcd.pairs().await.map_err(at(address))?;
    let Some(instance) = super::instance(&pairs) else {
        return Err(super::no_cluster(address));
    };
    Ok(super::contents(&pairs, instance))
}

/// Reads the objects of a running or stopped server in its data directory, with the records that servers of
/// an etcd share.
async fn read_directory(data: &Path, token: &TokenFile) -> Result<(Contents, Role)> {
    let marker = into_etcd::marker_with_objects(data)?;
    // Only objects are copied, so no volume needs a snapshot.
    let request = Request { local: false };
    let (mut source, summary) = match process::serving(data) {
        Some(_) => Source::server(data, request)?,
        None => Source::files(data, Vec::new(), request).await?,
    };
    let stored = (0..summary.objects).map(|_| source.next_object());
    let stored: Result<Vec<KeyValue>, _> = block_in_place(|| stored.collect());
    source.close().await?;
    let revision = Revision(summary.revision);
    let records = block_in_place(|| into_etcd::records(data, token, revision))?;
    let contents = Contents {
        instance: marker.instance,
        pairs: into_etcd::merge(stored?, records),
        revision,
    };
    Ok((contents, marker.role))
}

fn write(target: &Path, header: &Header, pairs: &[KeyValue]) -> Result<()> {
    let text = serde_json::to_string_pretty(header).context("encode the header")?;
    write_whole(target, |file| {
        let mut writer = Writer::new(file);
        writer.add_text(HEADER, &text)?;
        let bytes = pairs.iter().map(records::length).sum();
        let mut unwritten = pairs.iter();
        let mut next = || {
            let pair = unwritten.next().cloned();
            pair.ok_or_else(|| BackupError::ObjectMissing.into())
        };
        let mut objects = Objects::new(&mut next, pairs.len() as u64);
        writer.add_stream(OBJECTS, bytes, &mut objects)?;
        writer.finish()?;
        Ok(())
    })
}

/// Reads a whole backup, and checks it.
fn read(file: &Path) -> Result<(Header, Vec<KeyValue>)> {
    let (mut header, mut objects) = (String::new(), Vec::new());
    file_archive::read(file, &mut |item| -> Result<()> {
        match item.path.to_str() {
            Some(HEADER) => {
                let text = item.content.read_to_string(&mut header);
                text.context("read the header")?;
            }
            Some(OBJECTS) => {
                let mut reader = BufReader::new(item.content);
                let count = count(file, &header)?;
                for _ in 0..count {
                    let pair = records::read(&mut reader);
                    objects.push(pair.with_context(|| file_archive::incomplete(file))?);
                }
            }
            _ => return Err(BackupError::NoStoreBackup(file.to_owned())),
        }
        Ok(())
    })?;
    let header: Header = serde_json::from_str(&header).context("read the header")?;
    let actual = Checksum::compute(objects.iter()).context("encode an object")?;
    let stated = Checksum {
        count: header.objects,
        sha256: header.sha256.clone(),
    };
    if actual != stated {
        let file = file.to_owned();
        return Err(BackupError::BackupDiffers {
            file,
            actual,
            stated,
        });
    }
    Ok((header, objects))
}

/// The number of objects, from the header of a supported format.
fn count(file: &Path, header: &str) -> Result<u64> {
    let header: json_tree::Value = serde_json::from_str(header).context("read the header")?;
    if header["format"].as_u64() > Some(FORMAT.into()) {
        return Err(BackupError::Newer(file.to_owned()));
    }
    let count = header["objects"].as_u64();
    count.ok_or(BackupError::NoObjectCount)
}

/// Restores a backup into an empty store.
///
/// # Errors
/// The file is incomplete, the location is not empty, or an error of the disk or of etcd.
pub async fn restore(location: &StoreLocation, file: &Path) -> Result<()> {
    let (header, pairs) = block_in_place(|| read(file))?;
    // The cluster may have continued after the backup, and clients may remember its resource versions.
    let revision = Revision(header.revision.saturating_add(REVISIONS_LEFT_OUT));
    let contents = Contents {
        instance: header.instance.clone(),
        pairs,
        revision,
    };
    let (destination, start_command) = match location {
        StoreLocation::Etcd(address) => {
            to_etcd(address, &contents).await?;
            let start_command = format!("mainstay server {}", address.flags());
            (address.url.to_string(), start_command)
        }
        StoreLocation::Directory { data, token } => {
            to_directory(data, &contents, header.role, token).await?;
            let data = data.display().to_string();
            let start_command = format!("mainstay {} --data-dir {data}", header.role.command());
            (data, start_command)
        }
    };
    print_line(&format!(
        "{destination}: {} objects of {}, {}, verified (SHA-256 {}), new resource versions above {}\nStart it with: \
         {start_command}",
        header.objects, header.made_of, header.made_at, header.sha256, revision.0
    ));
    Ok(())
}

async fn to_etcd(address: &EtcdAddress, contents: &Contents) -> Result<()> {
    let etcd = connect(address).await?;
    let existing = etcd.contents().await.map_err(at(address))?;
    into_etcd::check_target(&existing, address, &contents.instance)?;
    let filled = into_etcd::fill(etcd, address, &contents.instance, &contents.pairs).await;
    let (etcd, begun, _) = filled?;
    let completed = etcd.complete(begun, contents.revision).await;
    completed.map_err(at(address))
}

async fn to_directory(
    data: &Path,
    contents: &Contents,
    role: Role,
    token: &TokenFile,
) -> Result<()> {
    require_empty(data)?;
    let host = Host::inspect()?;
    let instances = Path::new(pod_network::INSTANCES);
    let claim = data_directory::claim(data, &host.name, (role, Engine::Etcd), instances)?;
    let mut marker = claim.marker;
    (marker.instance, marker.cluster) = (contents.instance.clone(), true);
    let copied = block_in_place(|| into_directory::install(data, &mut marker, contents, token))?;
    into_directory::verify(data, contents.revision, &copied).await?;
    block_in_place(|| into_directory::rename_into_use(data, marker))
}

#[cfg(test)]
mod tests {
    use mvcc_store::Omittable;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn pair(number: u64) -> KeyValue {
        KeyValue {
            key: Arc::from(format!("/registry/{number:03}").as_bytes()),
            value: Bytes::from(number.to_string()),
            create_revision: Revision(2),
            mod_revision: Revision(number),
            lease: None,
            omittable: Omittable::UNKNOWN,
        }
    }

    fn header(pairs: &[KeyValue]) -> Header {
        let sum = Checksum::compute(pairs.iter()).unwrap();
        Header {
            format: FORMAT,
            made_by: "1".to_owned(),
            made_at: Timestamp::UNIX_EPOCH,
            made_of: "etcd://a".to_owned(),
            instance: "i".to_owned(),
            role: Role::Server,
            revision: 500,
            objects: sum.count,
            sha256: sum.sha256,
        }
    }

    #[test]
    fn a_backup_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backup");
        let pairs: Vec<KeyValue> = (3..300).map(pair).collect();
        write(&file, &header(&pairs), &pairs).unwrap();
        let (read_header, read_pairs) = read(&file).unwrap();
        assert_eq!(read_pairs, pairs);
        assert_eq!(read_header.revision, 500);
        let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backup");
        let refused = |file: &Path| format!("{:#}", anyhow::Error::new(read(file).unwrap_err()));
        let pairs: Vec<KeyValue> = (3..300).map(pair).collect();
        write(&file, &header(&pairs), &pairs).unwrap();
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert!(refused(&file).contains("not a complete backup"));
        // The header of other objects, and of a later version.
        write(&file, &header(&pairs[1..]), &pairs[..pairs.len() - 1]).unwrap();
        assert!(
            refused(&file).contains("its header says"),
            "{}",
            refused(&file)
        );
        let newer = Header {
            format: FORMAT + 1,
            ..header(&pairs)
        };
        write(&file, &newer, &pairs).unwrap();
        assert!(refused(&file).contains("newer mainstay"));
        let mut writer = Writer::new(std::fs::File::create(&file).unwrap());
        writer.add_text("backup.json", "{}").unwrap();
        writer.finish().unwrap();
        assert!(refused(&file).contains("`mainstay restore`"));
    }
}
