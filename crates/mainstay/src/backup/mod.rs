//! `mainstay backup` and `mainstay restore`: everything that an instance is, in one file.

mod archive;
pub mod contents;
mod records;
mod restore;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use mvcc_store::KeyValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data_directory::{MARKER_FILE, Marker};
use crate::down::left;
use crate::output::say;
use crate::process;
use crate::settings::DataDirectory;
use archive::Writer;
use contents::{Objects, Source, Summary};
pub use restore::{RestoreArguments, run as restore};

/// The first entry of a backup.
const HEADER: &str = "backup.json";
/// The objects.
const OBJECTS: &str = "objects";
/// The files that the server was configured by.
const CONFIGURATION: &str = "configuration";
/// Volumes of the pool, and of the class `local`.
const POOL_VOLUMES: &str = "volumes/local-cow";
const LOCAL_VOLUMES: &str = "volumes/local";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// Certificates that are made anew from the authority's key, for the host where they are needed.
const MADE_ANEW: [&str; 2] = ["server.crt", "server.key"];
/// Where volumes are in the store.
const VOLUME_KEYS: &[u8] = b"/registry/persistentvolumes/";

/// Arguments of `mainstay backup`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct BackupArguments {
    /// The file to write; it holds secrets, and is readable by its owner alone
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Also copy the volumes of the class local; the instance has to be stopped, with its pods
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    data: DataDirectory,
}

const AFTER_HELP: &str = "\
In the file are all objects as of one revision, the certificate authority, the key of the service
account tokens, registries.yaml, seccomp profiles, the files that the server was configured by (with
the keys of encrypted objects), and the volumes of the class local-cow, each as after a loss of power.
Not in it are images, logs, emptyDirs, events and volume snapshots. A running server goes on meanwhile.

Examples:
  mainstay backup /backups/monday.tar.gz
  mainstay restore /backups/monday.tar.gz --data-dir /var/lib/mainstay";

/// What the first entry says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    made_by: String,
    made_at: Timestamp,
    data_dir: PathBuf,
    host: String,
    revision: u64,
    objects: u64,
    /// The most that each volume of the pool may hold, in bytes.
    pool_volumes: BTreeMap<String, u64>,
    /// Volumes of the class local that are in it, and that are not.
    local_volumes: Vec<String>,
    left_out: Vec<String>,
    configured_by: Vec<PathBuf>,
}

/// Writes a backup of the instance in the data directory, whether or not it runs.
pub async fn run(arguments: &BackupArguments) -> Result<()> {
    let data = arguments.data.path()?;
    let data = std::path::absolute(&data).with_context(|| format!("use {}", data.display()))?;
    let Ok(Some(marker)) = Marker::read(&data) else {
        bail!(
            "{} is not marked as a data directory of mainstay (it has no readable file named \
             `{MARKER_FILE}`)",
            data.display()
        );
    };
    let runs = process::serving(&data).is_some() || !left::pods(&data).is_empty();
    if arguments.volumes && runs {
        bail!(
            "--volumes copies files while nothing changes them: stop the instance with its pods first \
             (`mainstay down`); without it volumes of the class local-cow are in the backup, and the \
             server goes on"
        );
    }
    let target = std::path::absolute(&arguments.file)
        .with_context(|| format!("write {}", arguments.file.display()))?;
    let (mut source, summary) = match process::serving(&data) {
        Some(_) => Source::server(&data)?,
        None => {
            let config = arguments.data.configuration_path().map(Path::to_owned);
            Source::files(&data, config.into_iter().collect()).await?
        }
    };
    let written = write(arguments, &data, &marker, &target, &mut source, &summary);
    // The volumes are let go also when the file could not be written.
    source.close().await?;
    written
}

fn write(
    arguments: &BackupArguments,
    data: &Path,
    marker: &Marker,
    target: &Path,
    source: &mut Source,
    summary: &Summary,
) -> Result<()> {
    let local = volumes_in(&data.join("volumes"))?;
    let (copied, left_out) = match arguments.volumes {
        true => (local, Vec::new()),
        false => (Vec::new(), local),
    };
    let header = Header {
        format: FORMAT,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: Timestamp::now(),
        data_dir: data.to_owned(),
        host: marker.host.clone(),
        revision: summary.revision,
        objects: summary.objects,
        pool_volumes: summary
            .frozen
            .iter()
            .map(|frozen| (frozen.volume.clone(), frozen.bytes))
            .collect(),
        local_volumes: copied,
        left_out,
        configured_by: summary.configured_by.clone(),
    };
    let unfinished = beside(target);
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .with_context(|| format!("write {}", unfinished.display()))?;
    let mut claims = BTreeMap::new();
    let written = fill(file, data, &header, source, summary, &mut claims).and_then(|()| {
        let place = || format!("write {}", target.display());
        fs::rename(&unfinished, target).with_context(place)?;
        let directory = target.parent().unwrap_or(Path::new("/"));
        let directory = File::open(directory).with_context(place)?;
        directory.sync_all().with_context(place)
    });
    if written.is_err() {
        fs::remove_file(&unfinished).ok();
        return written;
    }
    tell(target, &header, &claims, data);
    Ok(())
}

/// The name of a file that is not complete yet.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.unfinished", std::process::id()));
    PathBuf::from(name)
}

fn fill(
    file: File,
    data: &Path,
    header: &Header,
    source: &mut Source,
    summary: &Summary,
    claims: &mut BTreeMap<String, String>,
) -> Result<()> {
    let mut writer = Writer::new(file);
    let text = serde_json::to_string_pretty(header).context("encode the header")?;
    writer.add_text(HEADER, &text)?;
    let mut note = |pair: &KeyValue| claims.extend(claim_of(pair));
    let mut objects = Objects::new(source, summary.objects, &mut note);
    writer.add_stream(OBJECTS, summary.bytes, &mut objects)?;
    for name in [
        "registries.yaml",
        "seccomp",
        MARKER_FILE,
        "network/ranges.json",
    ] {
        writer.add_tree(Path::new(name), &data.join(name))?;
    }
    let certificates = data.join("certificates");
    for name in names_in(&certificates)? {
        if !MADE_ANEW.contains(&name.as_str()) && !name.ends_with(".new") {
            let path = Path::new("certificates").join(&name);
            writer.add_tree(&path, &certificates.join(&name))?;
        }
    }
    for (number, path) in header.configured_by.iter().enumerate() {
        writer.add_tree(&configuration(number, path), path)?;
    }
    for frozen in &summary.frozen {
        let path = Path::new(POOL_VOLUMES).join(&frozen.volume);
        writer.add_tree(&path, &frozen.path)?;
    }
    for volume in &header.local_volumes {
        let path = Path::new(LOCAL_VOLUMES).join(volume);
        writer.add_tree(&path, &data.join("volumes").join(volume))?;
    }
    writer.finish()
}

/// Where a file of the configuration is in the backup: two may have one name.
fn configuration(number: usize, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Path::new(CONFIGURATION).join(format!("{number}-{name}"))
}

/// Volume and claim, as far as that can be read (objects may be encrypted).
fn claim_of(pair: &KeyValue) -> Option<(String, String)> {
    pair.key.starts_with(VOLUME_KEYS).then_some(())?;
    let object: Value = serde_json::from_slice(&pair.value).ok()?;
    let claim = &object["spec"]["claimRef"];
    let (namespace, name) = (claim["namespace"].as_str()?, claim["name"].as_str()?);
    let volume = object["metadata"]["name"].as_str()?;
    Some((volume.to_owned(), format!("{namespace}/{name}")))
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let doing = || format!("read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(doing)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.with_context(doing)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// The volumes in a directory, without those that are being made or removed.
fn volumes_in(directory: &Path) -> Result<Vec<String>> {
    let mut names = names_in(directory)?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

fn tell(target: &Path, header: &Header, claims: &BTreeMap<String, String>, data: &Path) {
    let named = |volume: &String| match claims.get(volume) {
        Some(claim) => format!("  {volume} of claim {claim}"),
        None => format!("  {volume}"),
    };
    say(&format!(
        "{}: {} objects at revision {}",
        target.display(),
        header.objects,
        header.revision
    ));
    let included: Vec<String> = header
        .pool_volumes
        .keys()
        .chain(&header.local_volumes)
        .map(named)
        .collect();
    if !included.is_empty() {
        say(&format!("volumes in it:\n{}", included.join("\n")));
    }
    if !header.left_out.is_empty() {
        let left_out: Vec<String> = header.left_out.iter().map(named).collect();
        say(&format!(
            "NOT in it are the volumes of the class local; back up their directories in {}, or copy \
             them with --volumes:\n{}",
            data.join("volumes").display(),
            left_out.join("\n")
        ));
    }
}
