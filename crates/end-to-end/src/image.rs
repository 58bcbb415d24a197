//! Images of one layer, in OCI form.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

/// A blob with its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// An image of one layer.
#[derive(Clone, Debug)]
pub struct Image {
    config: Blob,
    layer: Blob,
    /// The manifest.
    pub manifest: Blob,
}

/// How a container of the image starts.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    /// `ENTRYPOINT`.
    pub entrypoint: &'a [&'a str],
    /// `CMD`.
    pub cmd: &'a [&'a str],
    /// `ENV`, beside `PATH`: `NAME=value`.
    pub env: &'a [&'a str],
    /// `WORKDIR`; none for `/`.
    pub directory: &'a str,
}

/// Names of the files of an image that is kept.
const PARTS: [&str; 3] = ["config", "layer", "manifest"];

impl Image {
    /// Packs a directory as an image.
    ///
    /// # Panics
    /// When the directory cannot be read.
    pub fn of_directory(root: &Path, settings: &Settings<'_>) -> Self {
        let plain = pack(root);
        let diff_id = digest(&plain);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).expect("compress the layer");
        let layer = blob(encoder.finish().expect("compress the layer"));
        let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
        env.extend(settings.env);
        let config = blob(
            json!({
                "architecture": architecture(),
                "os": "linux",
                "config": {
                    "Env": env,
                    "Entrypoint": settings.entrypoint,
                    "Cmd": settings.cmd,
                    "WorkingDir": settings.directory,
                },
                "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            })
            .to_string()
            .into_bytes(),
        );
        let manifest = blob(
            json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
                "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
            })
            .to_string()
            .into_bytes(),
        );
        Self {
            config,
            layer,
            manifest,
        }
    }

    /// The blobs that the manifest names.
    pub fn blobs(&self) -> [&Blob; 2] {
        [&self.config, &self.layer]
    }

    /// Writes the three parts as files of a directory, for [`read`](Self::read).
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let parts = [&self.config, &self.layer, &self.manifest];
        for (name, blob) in PARTS.iter().zip(parts) {
            fs::write(directory.join(name), &blob.bytes)?;
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let part = |name: &str| fs::read(directory.join(name)).map(blob);
        let [config, layer, manifest] = PARTS.map(part);
        Ok(Self {
            config: config?,
            layer: layer?,
            manifest: manifest?,
        })
    }

    /// Unpacks the root file system into a directory.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn unpack(&self, root: &Path) {
        let plain = flate2::read::GzDecoder::new(self.layer.bytes.as_slice());
        tar::Archive::new(plain)
            .unpack(root)
            .expect("unpack the image");
    }

    /// Writes the image as an OCI archive (a tar of an OCI layout) named `reference`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_archive(&self, file: &Path, reference: &str) {
        let mut archive = tar::Builder::new(File::create(file).expect("make the archive"));
        let mut descriptor =
            descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest);
        descriptor["annotations"] = json!({
            "org.opencontainers.image.ref.name": reference,
            "io.containerd.image.name": reference,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string();
        let mut put = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, bytes)
                .expect("write the archive");
        };
        put("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#);
        put("index.json".into(), index.as_bytes());
        for blob in [&self.manifest, &self.config, &self.layer] {
            put(
                format!("blobs/{}", blob.digest.replace(':', "/")),
                &blob.bytes,
            );
        }
        archive.finish().expect("finish the archive");
    }
}

/// A directory as a tar archive, in which a file with several names is once.
fn pack(root: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["-c", "--sort=name", "--numeric-owner", "-C"])
        .arg(root)
        .arg(".");
    let output = tar.output().expect("start tar");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pack {}: {errors}", root.display());
    output.stdout
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(kind: &str, blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": kind, "digest": blob.digest, "size": blob.bytes.len() })
}

fn blob(bytes: Vec<u8>) -> Blob {
    Blob {
        digest: digest(&bytes),
        bytes,
    }
}

fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
