//! Calls of the program `rbd` of ceph-common, on the machine of the server.

use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::class::{Format, RbdClass};

/// Until a call has ended: the monitors may not answer.
const CALL_MAX: Duration = Duration::from_secs(120);

/// Exit codes of `rbd` are error numbers.
const NOT_FOUND: i32 = 2;
const EXISTS: i32 = 17;

/// The reason why an image was not made or not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// The program is not there.
    #[error(
        "the program \"rbd\" (ceph-common) is not installed on the machine of the server, and images of \
         Ceph are made, resized and removed by it"
    )]
    Missing,
    /// The program `rbd` cannot be run.
    #[error("run rbd {command}")]
    Run {
        command: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The cluster does not answer.
    #[error("rbd {command} {image}: no answer of the monitors {monitors} in {} s", CALL_MAX.as_secs())]
    Silent {
        command: &'static str,
        image: String,
        monitors: String,
    },
    /// The cluster refused.
    #[error("rbd {command} {image}: exit code {code}: {said}")]
    Refused {
        command: &'static str,
        image: String,
        /// The exit code.
        code: i32,
        /// The last line that it said.
        said: String,
    },
    /// An image of that name is there, and is another one.
    #[error("the image {image} is there already, with {found} bytes and not with {wanted}")]
    OtherImage {
        image: String,
        /// The size of the existing image, in bytes.
        found: u64,
        /// The size of the claim's in bytes.
        wanted: u64,
    },
}

/// The program, with the key of a class's administrator.
pub(crate) struct Program {
    path: PathBuf,
    key: String,
}

impl Program {
    /// The program of that name or path.
    pub fn new(path: impl Into<PathBuf>, key: String) -> Self {
        Self {
            path: path.into(),
            key,
        }
    }

    /// Makes an image, unless an earlier attempt made it.
    ///
    /// *Errors.* See [`ProgramError`].
    pub async fn create(
        &self,
        class: &RbdClass,
        image: &str,
        mebibytes: u64,
    ) -> Result<(), ProgramError> {
        let output = self
            .call(class, "create", creation(class, image, mebibytes))
            .await?;
        if output.status.code() != Some(EXISTS) {
            return done(class, "create", image, &output);
        }
        let (found, wanted) = (self.size(class, image).await?, mebibytes << 20);
        match found == wanted {
            true => Ok(()),
            false => Err(ProgramError::OtherImage {
                image: format!("{}/{image}", class.pool),
                found,
                wanted,
            }),
        }
    }

    /// Lets an image grow, unless it has the size already. It never shrinks.
    ///
    /// *Errors.* See [`ProgramError`].
    pub async fn grow(
        &self,
        class: &RbdClass,
        image: &str,
        mebibytes: u64,
    ) -> Result<(), ProgramError> {
        if self.size(class, image).await? >= mebibytes << 20 {
            return Ok(());
        }
        let size = mebibytes.to_string();
        let arguments = ["resize", image, "--size", &size, "--no-progress"].map(str::to_owned);
        let output = self.call(class, "resize", arguments.into()).await?;
        done(class, "resize", image, &output)
    }

    /// The size of an image in bytes.
    async fn size(&self, class: &RbdClass, image: &str) -> Result<u64, ProgramError> {
        let info = ["info", image, "--format", "json"].map(str::to_owned);
        let output = self.call(class, "info", info.into()).await?;
        done(class, "info", image, &output)?;
        Ok(size(&output.stdout).unwrap_or_default())
    }

    /// Removes an image; none is no error.
    ///
    /// *Errors.* See [`ProgramError`]; an image that is mapped somewhere stays.
    pub async fn remove(&self, class: &RbdClass, image: &str) -> Result<(), ProgramError> {
        let arguments = ["rm", image, "--no-progress"].map(str::to_owned);
        let output = self.call(class, "rm", arguments.into()).await?;
        match output.status.code() {
            Some(NOT_FOUND) => Ok(()),
            _ => done(class, "rm", image, &output),
        }
    }

    /// The key goes through a pipe: every user of the machine reads the arguments of a process.
    async fn call(
        &self,
        class: &RbdClass,
        command: &'static str,
        arguments: Vec<String>,
    ) -> Result<Output, ProgramError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ProgramError::Missing,
            _ => ProgramError::Run { command, source },
        };
        let mut rbd = Command::new(&self.path);
        rbd.args(&arguments)
            .args(["--pool", &class.pool])
            .args(["--id", &class.admin.id])
            .args(["-m", &class.monitors.join(",")])
            .args(["--keyfile", "/dev/stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut rbd = rbd.spawn().map_err(failed)?;
        if let Some(mut input) = rbd.stdin.take() {
            // One that has ended says why.
            input.write_all(self.key.as_bytes()).await.ok();
        }
        match timeout(CALL_MAX, rbd.wait_with_output()).await {
            Ok(output) => output.map_err(failed),
            Err(_) => Err(ProgramError::Silent {
                command,
                image: arguments.get(1).cloned().unwrap_or_default(),
                monitors: class.monitors.join(","),
            }),
        }
    }
}

fn creation(class: &RbdClass, image: &str, mebibytes: u64) -> Vec<String> {
    let size = mebibytes.to_string();
    let mut arguments = vec!["create", image, "--size", &size, "--image-format"];
    let features = match &class.format {
        Format::One => {
            arguments.push("1");
            return arguments.into_iter().map(str::to_owned).collect();
        }
        Format::Two(features) => features.join(","),
    };
    // Without the argument it would have all that are usual in the cluster.
    arguments.extend(["2", "--image-feature", &features]);
    arguments.into_iter().map(str::to_owned).collect()
}

fn done(
    class: &RbdClass,
    command: &'static str,
    image: &str,
    output: &Output,
) -> Result<(), ProgramError> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("rbd:"));
    let last = || {
        text.lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
    };
    Err(ProgramError::Refused {
        command,
        image: format!("{}/{image}", class.pool),
        code: output.status.code().unwrap_or(-1),
        said: said.or_else(last).unwrap_or_default().to_owned(),
    })
}

/// The size in an answer of `rbd info`.
fn size(answer: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Info {
        size: u64,
    }
    let info: Info = serde_json::from_slice(answer).ok()?;
    Some(info.size)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use json_tree::json;
    use k8s_openapi::api::storage::v1::StorageClass;

    use super::*;

    fn class() -> RbdClass {
        let class: StorageClass = json_tree::from_value(json!({"metadata": {"name": "fast"},
            "provisioner": "kubernetes.io/rbd", "parameters": {"monitors": "10.0.0.1:6789,10.0.0.2",
                "adminId": "root", "adminSecretName": "a", "userSecretName": "u", "pool": "kube",
                "imageFeatures": "layering"}}))
        .unwrap();
        RbdClass::of(&class).unwrap().unwrap()
    }

    /// A program that writes down its arguments and its input, and does as the script says.
    fn fake(dir: &Path, script: &str) -> Program {
        let path = dir.join("rbd");
        let log = dir.join("log");
        let text = format!(
            "#!/bin/sh\necho \"$* < $(cat)\" >> {}\n{script}\n",
            log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Program::new(path, "AQ==".to_owned())
    }

    fn log(dir: &Path) -> String {
        fs::read_to_string(dir.join("log")).unwrap()
    }

    const LOGIN: &str =
        "--pool kube --id root -m 10.0.0.1:6789,10.0.0.2 --keyfile /dev/stdin < AQ==\n";

    #[tokio::test]
    async fn an_image_is_made_and_removed_by_the_program() {
        let temp = tempfile::tempdir().unwrap();
        let rbd = fake(temp.path(), "exit 0");
        rbd.create(&class(), "i", 2).await.unwrap();
        rbd.remove(&class(), "i").await.unwrap();
        let expected = format!(
            "create i --size 2 --image-format 2 --image-feature layering {LOGIN}\
             rm i --no-progress {LOGIN}"
        );
        assert_eq!(log(temp.path()), expected);
        let old = RbdClass {
            format: Format::One,
            ..class()
        };
        assert_eq!(
            creation(&old, "i", 1).join(" "),
            "create i --size 1 --image-format 1"
        );
    }

    #[tokio::test]
    async fn an_image_of_an_earlier_attempt_is_taken_and_another_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let script = "case $1 in create) exit 17 ;; info) echo '{\"size\": 2097152}' ;; esac";
        let rbd = fake(temp.path(), script);
        rbd.create(&class(), "i", 2).await.unwrap();
        assert!(log(temp.path()).contains("info i --format json"));
        let error = rbd.create(&class(), "i", 3).await.unwrap_err();
        assert!(
            matches!(
                error,
                ProgramError::OtherImage {
                    found: 2_097_152,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_image_grows_once_and_never_shrinks() {
        let temp = tempfile::tempdir().unwrap();
        let script = "case $1 in info) echo '{\"size\": 2097152}' ;; esac";
        let rbd = fake(temp.path(), script);
        rbd.grow(&class(), "i", 3).await.unwrap();
        let expected =
            format!("info i --format json {LOGIN}resize i --size 3 --no-progress {LOGIN}");
        assert_eq!(log(temp.path()), expected);
        for size in [1, 2] {
            rbd.grow(&class(), "i", size).await.unwrap();
        }
        assert_eq!(log(temp.path()).matches("resize").count(), 1);
    }

    #[tokio::test]
    async fn errors_say_what_the_cluster_said() {
        let temp = tempfile::tempdir().unwrap();
        let rbd = fake(temp.path(), "exit 2");
        rbd.remove(&class(), "i").await.unwrap();
        let script =
            "echo 'x librbd: no' >&2; echo 'rbd: error: image still has watchers' >&2; exit 16";
        let rbd = fake(temp.path(), script);
        let error = rbd.remove(&class(), "i").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "rbd rm kube/i: exit code 16: rbd: error: image still has watchers"
        );
        let missing = Program::new(temp.path().join("none"), String::new());
        let error = missing.create(&class(), "i", 1).await.unwrap_err();
        assert!(matches!(error, ProgramError::Missing), "{error}");
    }
}
