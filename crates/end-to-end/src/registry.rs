//! Debian's `docker-registry` on a loopback port.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::image::Image;
use crate::wait_for;

/// A running registry.
pub struct Registry {
    directory: tempfile::TempDir,
    child: Child,
    address: String,
    login: &'static [&'static str],
}

/// The user of a registry with a login.
pub const USER: &str = "somebody";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";
const LOGIN: [&str; 2] = ["--user", "somebody:secret"];
/// User and password as an htpasswd file has them (bcrypt).
const HASHED: &str = "somebody:$2b$04$mhzvcNwWIwyffjIuLfwyaeX0tEkIo9JWP4YcBO4zm4RaRnO//5NQG\n";

impl Registry {
    /// Starts a registry on a free port.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn start() -> Self {
        Self::run("127.0.0.1", "", &[])
    }

    /// Starts a registry at this address of the network of the calling thread.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn start_at(address: &str) -> Self {
        Self::run(address, "", &[])
    }

    /// Starts a registry that answers only to [`USER`] with [`PASSWORD`].
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn start_with_login() -> Self {
        let auth = "auth: {htpasswd: {realm: test, path: PASSWORDS}}\n";
        Self::run("127.0.0.1", auth, &LOGIN)
    }

    #[track_caller]
    fn run(host: &str, auth: &str, login: &'static [&'static str]) -> Self {
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
            login,
        };
        wait_for("the registry to answer", 30, || {
            let url = format!("http://{}/v2/", registry.address);
            registry.curl(&["--fail", &url])
        });
        registry
    }

    /// Runs curl with the login that the registry wants.
    fn curl(&self, arguments: &[&str]) -> Result<String, String> {
        curl(&[self.login, arguments].concat())
    }

    /// Host and port, such as `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// A `registries.yaml` that sends pulls of docker.io to this registry.
    pub fn registries_yaml(&self) -> String {
        self.mirrors(&["docker.io"])
    }

    /// A `registries.yaml` that sends pulls of these registries to this one.
    pub fn mirrors(&self, registries: &[&str]) -> String {
        let address = self.address();
        let mut text = "mirrors:\n".to_owned();
        for registry in registries.iter().copied().chain([address.as_str()]) {
            text += &format!("  \"{registry}\":\n    endpoint: [\"http://{address}\"]\n");
        }
        text
    }

    /// Uploads an image as `repository:tag`.
    ///
    /// # Panics
    /// When the registry refuses.
    #[track_caller]
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            self.push_blob(repository, &blob.digest, &blob.bytes);
        }
        let manifest = self.directory.path().join("manifest.json");
        fs::write(&manifest, &image.manifest.bytes).expect("write the manifest");
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        self.put(&manifest, kind, &url);
    }

    fn push_blob(&self, repository: &str, digest: &str, bytes: &[u8]) {
        let file = self.directory.path().join("blob");
        fs::write(&file, bytes).expect("write the blob");
        let start = format!("http://{}/v2/{repository}/blobs/uploads/", self.address());
        let headers = self
            .curl(&["--fail", "-X", "POST", "-D", "-", "-o", "/dev/null", &start])
            .expect("start an upload");
        let location = headers
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .starts_with("location:")
                    .then(|| line[9..].trim())
            })
            .expect("the registry names the upload's location");
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        self.put(&file, "application/octet-stream", &url);
    }

    #[track_caller]
    fn put(&self, file: &Path, kind: &str, url: &str) {
        let (kind, data) = (
            format!("Content-Type: {kind}"),
            format!("@{}", file.display()),
        );
        let put = ["--fail", "-X", "PUT", "-H", &kind, "--data-binary", &data];
        self.curl(&[&put[..], &[url]].concat())
            .expect("upload a file");
    }

    /// Removes all that the registry holds of a repository's tag.
    ///
    /// # Panics
    /// When the files cannot be removed.
    pub fn forget(&self, repository: &str) {
        let root: &Path = self.directory.path();
        let path = root
            .join("blobs/docker/registry/v2/repositories")
            .join(repository);
        fs::remove_dir_all(path).expect("remove the repository");
    }
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
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("find a free port");
    listener.local_addr().expect("the port").port()
}

/// Runs curl quietly; the error is what it printed.
///
/// # Errors
/// When curl fails.
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
