//! helm, as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Instance, Output};

/// Runs `helm` with one kubeconfig and a separate home directory.
#[derive(Clone, Debug)]
pub struct Helm {
    kubeconfig: PathBuf,
    home: PathBuf,
    driver: &'static str,
}

impl Helm {
    /// A client of the given server.
    pub fn new(instance: &Instance) -> Self {
        Self {
            kubeconfig: instance.data().join("kubeconfig"),
            home: instance.data().join("helm-home"),
            driver: "secret",
        }
    }

    /// A client that stores its state in another kind of object.
    pub fn with_driver(&self, driver: &'static str) -> Self {
        Self {
            driver,
            ..self.clone()
        }
    }

    /// Runs helm and returns its output, whether it succeeds or not.
    ///
    /// # Panics
    ///
    /// helm cannot be started.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = Command::new(crate::tool("helm"))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", self.home.join("cache"))
            .env("HELM_CONFIG_HOME", self.home.join("config"))
            .env("HELM_DATA_HOME", self.home.join("data"))
            .env("HELM_DRIVER", self.driver)
            .env("HOME", &self.home)
            .stdin(Stdio::null())
            .output()
            .expect("start helm");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs helm, which must succeed; returns standard output.
    ///
    /// # Panics
    ///
    /// The command fails.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).expect_success(&arguments.join(" "))
    }

    /// As [`ok`](Self::ok), with the JSON output parsed.
    ///
    /// # Panics
    ///
    /// The command fails, or prints no JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("helm -o json prints JSON")
    }

    /// The revisions of a release: `1:superseded 2:deployed`.
    ///
    /// # Panics
    /// There is no such release.
    #[track_caller]
    pub fn revisions(&self, release: &str) -> String {
        let history = self.json(&["history", release]);
        let revisions = history.as_array().into_iter().flatten();
        let entries: Vec<String> = revisions
            .map(|entry| format!("{}:{}", entry["revision"], crate::text(entry, "/status")))
            .collect();
        entries.join(" ")
    }

    /// The chart that `helm create` writes, below `directory`.
    ///
    /// # Panics
    ///
    /// The chart cannot be created.
    #[track_caller]
    pub fn create(&self, directory: &Path, name: &str) -> String {
        let chart = directory.join(name).display().to_string();
        self.ok(&["create", &chart]);
        chart
    }
}
