//! The images' root file systems in containers that `runc` runs alone, for comparison with pods.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::image::Image;

/// A root with runc's default settings.
pub struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    /// A bundle of the image's root; its container runs `arguments`.
    ///
    /// # Panics
    ///
    /// runc is missing.
    pub fn new(image: &Image, arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-bundle-")
            .tempdir()
            .expect("a directory");
        let bundle = Self { directory };
        let root = bundle.path().join("rootfs");
        fs::create_dir(&root).expect("make the root");
        image.unpack(&root);
        bundle.runc(&["spec", "--bundle", &bundle.path().to_string_lossy()]);
        let file = bundle.path().join("config.json");
        let text = fs::read_to_string(&file).expect("read config.json");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["process"]["args"] = json!(arguments);
        config["process"]["terminal"] = json!(false);
        fs::write(&file, config.to_string()).expect("write config.json");
        bundle
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn runc(&self, arguments: &[&str]) {
        // A container that continues to run must not have a pipe of this process.
        let status = Command::new("runc")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let done = status.is_ok_and(|status| status.success());
        assert!(done, "runc {}", arguments.join(" "));
    }

    /// Runs a container from its start to its removal.
    ///
    /// # Panics
    /// runc fails.
    pub fn time_run(&self, name: &str) -> Duration {
        let started = Instant::now();
        let bundle = self.path();
        self.runc(&["run", "--bundle", &bundle.to_string_lossy(), &id(name)]);
        started.elapsed()
    }

    /// A container that runs until it is dropped.
    ///
    /// # Panics
    /// runc fails.
    pub fn start(&self, name: &str) -> Running<'_> {
        let id = id(name);
        let bundle = self.path();
        self.runc(&[
            "run",
            "--detach",
            "--bundle",
            &bundle.to_string_lossy(),
            &id,
        ]);
        Running { bundle: self, id }
    }
}

/// A name that no other process uses for a container.
fn id(name: &str) -> String {
    format!("mainstay-bench-{}-{name}", std::process::id())
}

/// A container that `runc` runs.
pub struct Running<'a> {
    bundle: &'a Bundle,
    id: String,
}

impl Running<'_> {
    /// Runs a command in the container until it exits.
    ///
    /// # Panics
    ///
    /// The command fails.
    pub fn time_exec(&self, command: &[&str]) -> Duration {
        let started = Instant::now();
        self.bundle.runc(&[&["exec", &self.id], command].concat());
        started.elapsed()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.bundle.runc(&["delete", "--force", &self.id]);
    }
}
