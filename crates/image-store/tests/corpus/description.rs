//! Images as plain data, and their creation: an OCI layout of uncompressed layers.

use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::EntryType;

/// An image: its layers, the bottom layer first.
#[derive(Clone, Debug)]
pub struct Described {
    pub name: String,
    pub layers: Vec<Vec<Entry>>,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u64, u64),
    pub time: u64,
    pub attributes: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(String),
    Directory,
    Symlink(String),
    Hard(String),
    Fifo,
    Character(u32, u32),
    Block(u32, u32),
}

impl Entry {
    fn new(path: &str, kind: Kind, mode: u32) -> Self {
        Entry {
            path: path.to_owned(),
            kind,
            mode,
            owner: (0, 0),
            time: 1_000_000_000,
            attributes: Vec::new(),
        }
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, user: u64, group: u64) -> Self {
        self.owner = (user, group);
        self
    }

    pub fn time(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    pub fn attribute(mut self, name: &'static str, value: &[u8]) -> Self {
        self.attributes.push((name, value.to_vec()));
        self
    }
}

pub fn file(path: &str) -> Entry {
    Entry::new(path, Kind::File(format!("the text of {path}")), 0o644)
}

pub fn directory(path: &str) -> Entry {
    Entry::new(path, Kind::Directory, 0o755)
}

pub fn symlink(path: &str, target: &str) -> Entry {
    Entry::new(path, Kind::Symlink(target.to_owned()), 0o777)
}

pub fn hard(path: &str, target: &str) -> Entry {
    Entry::new(path, Kind::Hard(target.to_owned()), 0o644)
}

pub fn fifo(path: &str) -> Entry {
    Entry::new(path, Kind::Fifo, 0o644)
}

pub fn character(path: &str, major: u32, minor: u32) -> Entry {
    Entry::new(path, Kind::Character(major, minor), 0o644)
}

pub fn block(path: &str, major: u32, minor: u32) -> Entry {
    Entry::new(path, Kind::Block(major, minor), 0o644)
}

/// An entry that removes a path of the layers below.
pub fn without(path: &str) -> Entry {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let slash = if parent.is_empty() { "" } else { "/" };
    Entry::new(
        &format!("{parent}{slash}.wh.{name}"),
        Kind::File(String::new()),
        0o644,
    )
}

/// An entry that removes the content of a directory in the layers below.
pub fn opaque(path: &str) -> Entry {
    Entry::new(
        &format!("{path}/.wh..wh..opq"),
        Kind::File(String::new()),
        0o644,
    )
}

/// The archive of a layer.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut records = Vec::new();
        for (name, value) in &entry.attributes {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        if entry.path.len() > 100 {
            record(&mut records, "path", entry.path.as_bytes());
        }
        let target = match &entry.kind {
            Kind::Symlink(target) | Kind::Hard(target) => target.as_str(),
            _ => "",
        };
        if target.len() > 100 {
            record(&mut records, "linkpath", target.as_bytes());
        }
        if !records.is_empty() {
            block_of(&mut bytes, EntryType::XHeader, "pax", "", &records, |_| {});
        }
        let (kind, contents, device) = match &entry.kind {
            Kind::File(text) => (EntryType::Regular, text.as_str(), None),
            Kind::Directory => (EntryType::Directory, "", None),
            Kind::Symlink(_) => (EntryType::Symlink, "", None),
            Kind::Hard(_) => (EntryType::Link, "", None),
            Kind::Fifo => (EntryType::Fifo, "", None),
            Kind::Character(major, minor) => (EntryType::Char, "", Some((*major, *minor))),
            Kind::Block(major, minor) => (EntryType::Block, "", Some((*major, *minor))),
        };
        block_of(
            &mut bytes,
            kind,
            &entry.path,
            target,
            contents.as_bytes(),
            |header| {
                header.set_mode(entry.mode);
                header.set_uid(entry.owner.0);
                header.set_gid(entry.owner.1);
                header.set_mtime(entry.time);
                if let Some((major, minor)) = device {
                    header.set_device_major(major).unwrap();
                    header.set_device_minor(minor).unwrap();
                }
            },
        );
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A record of an extended header; the record starts with its length.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A header, with any name in it, and its content.
fn block_of(
    bytes: &mut Vec<u8>,
    kind: EntryType,
    path: &str,
    target: &str,
    contents: &[u8],
    facts: impl FnOnce(&mut tar::Header),
) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(contents.len() as u64);
    facts(&mut header);
    let raw = header.as_old_mut();
    let short = |text: &str| text.as_bytes()[..text.len().min(100)].to_vec();
    raw.name[..path.len().min(100)].copy_from_slice(&short(path));
    raw.linkname[..target.len().min(100)].copy_from_slice(&short(target));
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

impl Described {
    /// Writes the image as an OCI layout.
    pub fn write(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |kind: &str, bytes: &[u8]| {
            let digest = Sha256::digest(bytes);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(blobs.join(&hex), bytes).unwrap();
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let layers = self.layers.iter();
        let layers: Vec<_> = layers
            .map(|layer| put("layer.v1.tar", &archive(layer)))
            .collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            _ => "arm64",
        };
        let config = json!({"architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = put("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers,
            "mediaType": "application/vnd.oci.image.manifest.v1+json"});
        let mut manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "image"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
    }
}
