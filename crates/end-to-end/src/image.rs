//! Images made of Debian packages, in OCI form.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
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
}

impl Image {
    /// Packs a directory as an image.
    ///
    /// # Panics
    /// When the directory cannot be read.
    pub fn of_directory(root: &Path, settings: &Settings<'_>) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        archive
            .append_dir_all(".", root)
            .expect("pack the root file system");
        let plain = archive.into_inner().expect("finish the archive");
        let diff_id = digest(&plain);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).expect("compress the layer");
        let layer = blob(encoder.finish().expect("compress the layer"));
        let config = blob(
            json!({
                "architecture": architecture(),
                "os": "linux",
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Entrypoint": settings.entrypoint,
                    "Cmd": settings.cmd,
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

/// A busybox image: one static program and its links.
///
/// # Panics
/// When the packages are missing.
pub fn busybox() -> Image {
    let root = root_of("busybox");
    let image = Image::of_directory(
        root.path(),
        &Settings {
            cmd: &["sh"],
            ..Settings::default()
        },
    );
    drop(root);
    image
}

/// nginx from Debian's packages with the form of the articles' image: serves
/// `/usr/share/nginx/html` on port 80, logs to standard output. `label` makes the images of
/// several tags differ.
///
/// # Panics
/// When the packages are missing.
pub fn nginx(label: &str) -> Image {
    let root = root_of("nginx");
    let path = root.path();
    let configuration = "user root;\ndaemon off;\nerror_log /dev/stderr warn;\npid /run/nginx.pid;\n\
        events { worker_connections 64; }\n\
        http {\n  access_log /dev/stdout;\n  default_type text/plain;\n\
        server { listen 80; root /usr/share/nginx/html; index index.html; autoindex on; }\n}\n";
    for directory in [
        "var/log/nginx",
        "var/lib/nginx",
        "run",
        "tmp",
        "usr/share/nginx/html",
    ] {
        fs::create_dir_all(path.join(directory)).expect("make a directory");
    }
    fs::write(path.join("etc/nginx/nginx.conf"), configuration).expect("write nginx.conf");
    fs::write(path.join("etc/image-label"), label).expect("write the label");
    let settings = Settings {
        cmd: &["/usr/sbin/nginx"],
        ..Settings::default()
    };
    Image::of_directory(path, &settings)
}

/// Unpacks an image's packages and adds what every image has.
fn root_of(image: &str) -> tempfile::TempDir {
    let root = tempfile::Builder::new()
        .prefix("mainstay-image-")
        .tempdir()
        .expect("a directory");
    let packages = crate::tool("packages").join(image);
    for package in archives(&packages) {
        let unpacked = Command::new("dpkg-deb")
            .arg("-x")
            .arg(&package)
            .arg(root.path())
            .status();
        assert!(
            unpacked.is_ok_and(|status| status.success()),
            "unpack {}",
            package.display()
        );
    }
    let path = root.path();
    for directory in ["etc", "tmp", "proc", "sys", "dev", "root", "bin"] {
        fs::create_dir_all(path.join(directory)).expect("make a directory");
    }
    fs::set_permissions(path.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    fs::write(path.join("etc/passwd"), passwd).expect("write passwd");
    fs::write(path.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("write group");
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .into_iter()
        .find(|file| path.join(file).is_file())
        .expect("busybox in the image");
    for name in BUSYBOX_COMMANDS {
        let link = path.join("bin").join(name);
        if fs::symlink_metadata(&link).is_err() && !path.join("usr/bin").join(name).exists() {
            symlink(format!("/{busybox}"), link).expect("link a command");
        }
    }
    root
}

const BUSYBOX_COMMANDS: &[&str] = &[
    "sh", "hostname", "ls", "cat", "echo", "sleep", "nslookup", "wget", "ping", "id", "env", "ps",
    "true", "false", "kill", "touch", "mkdir", "rm", "grep", "head", "tail", "tee", "tar", "date",
    "stty", "tty", "df", "mount", "nc", "seq", "trap", "test", "vi", "which", "dd", "sync", "ip",
    "cp", "chmod", "wc",
];

fn archives(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .expect("the package directory")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no packages in {}", directory.display());
    paths
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
