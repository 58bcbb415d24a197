//! Debian's `docker-registry` on a loopback port.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::image::{Blob, Image};
use crate::wait_for;

/// A running registry.
pub struct Registry {
    directory: tempfile::TempDir,
    child: Child,
    address: String,
}

/// The user of a registry with a login.
pub const USER: &str = "somebody";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";
/// User and password as in an htpasswd file (bcrypt).
const HASHED: &str = "somebody:$2b$04$mhzvcNwWIwyffjIuLfwyaeX0tEkIo9JWP4YcBO4zm4RaRnO//5NQG\n";

impl Registry {
    /// Starts a registry on a free port.
    ///
    /// # Panics
    ///
    /// The registry does not respond.
    #[track_caller]
    pub fn start() -> Self {
        Self::run("127.0.0.1", "")
    }

    /// Starts a registry at this address of the network of the calling thread.
    ///
    /// # Panics
    ///
    /// The registry does not respond.
    #[track_caller]
    pub fn start_at(address: &str) -> Self {
        Self::run(address, "")
    }

    /// Starts a registry that responds only to [`USER`] with [`PASSWORD`].
    ///
    /// # Panics
    ///
    /// The registry does not respond.
    #[track_caller]
    pub fn start_with_login() -> Self {
        let auth = "auth: {htpasswd: {realm: test, path: PASSWORDS}}\n";
        Self::run("127.0.0.1", auth)
    }

    #[track_caller]
    fn run(host: &str, auth: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-registry-")
            .tempdir()
            .expect("make a directory for the registry");
        let address = format!("{host}:{}", free_port());
        let root = directory.path();
        let configuration = format!(
            "version: 0.1\nlog: {{level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{address}\", secret: test}}\n",
            root.join("blobs").display()
        );
        let passwords = root.join("passwords");
        fs::write(&passwords, HASHED).expect("write the registry's users");
        let configuration =
            configuration + &auth.replace("PASSWORDS", &passwords.display().to_string());
        let file = root.join("config.yml");
        fs::write(&file, configuration).expect("write the registry's configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start docker-registry");
        let registry = Self {
            directory,
            child,
            address,
        };
        wait_for("the registry to respond", 30, || {
            TcpStream::connect(&registry.address)
        });
        registry
    }

    /// Host and port, such as `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// A `registries.yaml` that sends pulls of docker.io to this registry.
    pub fn registries_yaml(&self) -> String {
        self.mirrors(&["docker.io"])
    }

    /// A `registries.yaml` that sends pulls of these registries to this registry.
    pub fn mirrors(&self, registries: &[&str]) -> String {
        let address = self.address();
        let mut text = "mirrors:\n".to_owned();
        for registry in registries.iter().copied().chain([address.as_str()]) {
            text += &format!("  \"{registry}\":\n    endpoint: [\"http://{address}\"]\n");
        }
        text
    }

    /// Writes an image as `repository:tag` into the registry's storage, in the layout of its driver `filesystem`,
    /// because an upload of each image by each test took 2 % of the time of all tests.
    ///
    /// # Panics
    ///
    /// The files cannot be written.
    #[track_caller]
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        let links = self.storage().join("repositories").join(repository);
        for blob in image.blobs() {
            self.store(blob);
            link(&links.join("_layers"), &blob.digest);
        }
        let manifest = &image.manifest;
        self.store(manifest);
        let manifests = links.join("_manifests");
        link(&manifests.join("revisions"), &manifest.digest);
        let tag = manifests.join("tags").join(tag);
        link(&tag.join("index"), &manifest.digest);
        write_link(&tag.join("current"), &manifest.digest);
    }

    fn store(&self, blob: &Blob) {
        let hex = hex(&blob.digest);
        let directory = self
            .storage()
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(hex);
        let file = directory.join("data");
        if !file.exists() {
            fs::create_dir_all(&directory).expect("make a blob's directory");
            blob.write(&file).expect("write a blob");
        }
    }

    fn storage(&self) -> PathBuf {
        self.directory.path().join("blobs/docker/registry/v2")
    }

    /// Removes all stored data of a repository's tag.
    ///
    /// # Panics
    ///
    /// The files cannot be removed.
    pub fn forget(&self, repository: &str) {
        let path = self.storage().join("repositories").join(repository);
        fs::remove_dir_all(path).expect("remove the repository");
    }
}

/// Writes the link of a digest into the directory of links.
fn link(directory: &Path, digest: &str) {
    write_link(&directory.join("sha256").join(hex(digest)), digest);
}

fn write_link(directory: &Path, digest: &str) {
    fs::create_dir_all(directory).expect("make a link's directory");
    fs::write(directory.join("link"), digest).expect("write a link");
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that was free a moment ago.
///
/// # Panics
///
/// There is no free port.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("find a free port");
    listener.local_addr().expect("the port").port()
}

/// Runs curl quietly; the error is its output.
///
/// # Errors
///
/// curl fails.
pub fn curl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("start curl: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
