//! Images of one layer, in OCI form.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A blob with its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    contents: Contents,
}

#[derive(Clone, Debug)]
enum Contents {
    Bytes(Vec<u8>),
    /// A file that is never changed.
    File(PathBuf),
}

impl Blob {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            digest: digest(&bytes),
            contents: Contents::Bytes(bytes),
        }
    }

    /// The contents.
    ///
    /// # Errors
    ///
    /// The file of the contents cannot be read.
    pub fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        match &self.contents {
            Contents::Bytes(bytes) => Ok(bytes.into()),
            Contents::File(path) => fs::read(path).map(Cow::from),
        }
    }

    /// Creates a file with the contents: a hard link to their file, on the same disk.
    ///
    /// # Errors
    ///
    /// The file cannot be created.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        match &self.contents {
            Contents::Bytes(bytes) => fs::write(file, bytes),
            Contents::File(path) => match fs::hard_link(path, file) {
                Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                    fs::copy(path, file).map(drop)
                }
                linked => linked,
            },
        }
    }
}

/// An image of one layer.
#[derive(Clone, Debug)]
pub struct Image {
    config: Blob,
    layer: Blob,
    pub manifest: Blob,
}

/// The start of a container of the image.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    pub entrypoint: &'a [&'a str],
    pub cmd: &'a [&'a str],
    /// `ENV`, in addition to `PATH`: `NAME=value`.
    pub env: &'a [&'a str],
    /// `WORKDIR`; empty for `/`.
    pub directory: &'a str,
}

/// Names of the files of a stored image.
const CONFIG: &str = "config";
const LAYER: &str = "layer";
const MANIFEST: &str = "manifest";

impl Image {
    /// Packs a directory as an image.
    ///
    /// # Panics
    ///
    /// The directory cannot be read.
    pub fn of_directory(root: &Path, settings: &Settings<'_>) -> Self {
        let plain = pack(root);
        let diff_id = digest(&plain);
        let layer = Blob::of(compress(&plain));
        let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
        env.extend(settings.env);
        let config = Blob::of(
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
        let manifest = Blob::of(
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
    /// The files cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let parts = [
            (CONFIG, &self.config),
            (LAYER, &self.layer),
            (MANIFEST, &self.manifest),
        ];
        for (name, blob) in parts {
            let file = directory.join(name);
            // A registry of an earlier test may have a hard link to the former file.
            if file.exists() {
                fs::remove_file(&file)?;
            }
            blob.write(&file)?;
        }
        Ok(())
    }

    /// Reads the files of [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// A file is missing.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let part = |name: &str| fs::read(directory.join(name)).map(Blob::of);
        let [config, manifest] = [CONFIG, MANIFEST].map(part);
        let manifest = manifest?;
        let described: Value = serde_json::from_slice(&manifest.bytes()?)?;
        let digest = described["layers"][0]["digest"].as_str();
        let digest = digest.ok_or_else(|| io::Error::other("the manifest names no layer"))?;
        Ok(Self {
            config: config?,
            layer: Blob {
                digest: digest.to_owned(),
                contents: Contents::File(directory.join(LAYER)),
            },
            manifest,
        })
    }

    /// Unpacks the root file system into a directory.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn unpack(&self, root: &Path) {
        let layer = self.layer.bytes().expect("read the layer");
        let plain = flate2::read::GzDecoder::new(layer.as_ref());
        tar::Archive::new(plain)
            .unpack(root)
            .expect("unpack the image");
    }

    /// Writes the image as an OCI archive (a tar of an OCI layout) named `reference`.
    ///
    /// # Panics
    /// The file cannot be written.
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
            let bytes = blob.bytes().expect("read a part of the image");
            put(format!("blobs/{}", blob.digest.replace(':', "/")), &bytes);
        }
        archive.finish().expect("finish the archive");
    }
}

/// A directory as a tar archive, which contains a file with several names only once.
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

/// Compresses with `gzip`, because the libraries of the tests are optimised little.
fn compress(plain: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip");
    gzip.args(["-1", "-n"]);
    gzip.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = gzip.spawn().expect("start gzip");
    let mut input = running.stdin.take().expect("the input of gzip");
    let output = thread::scope(|scope| {
        scope.spawn(move || input.write_all(plain).expect("compress the layer"));
        running.wait_with_output().expect("read from gzip")
    });
    assert!(output.status.success(), "gzip: {}", output.status);
    output.stdout
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(kind: &str, blob: &Blob) -> Value {
    let size = blob.bytes().expect("read a blob").len();
    json!({ "mediaType": kind, "digest": blob.digest, "size": size })
}

fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
