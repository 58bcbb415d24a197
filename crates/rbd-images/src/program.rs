//! Calls of the program `rbd` of ceph-common.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use resource_kinds::storage::rbd::ImageFormat;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Time limit of a call, because the monitors may not respond.
const CALL_MAX: Duration = Duration::from_secs(120);

/// Exit codes of `rbd` are error numbers.
const NOT_FOUND: i32 = 2;
const EXISTS: i32 = 17;

/// The reason why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum RbdProgramError {
    #[error("the program \"rbd\" (ceph-common) is not installed")]
    Missing,
    /// The program cannot be run.
    #[error("run rbd {command}")]
    Run {
        command: &'static str,
        #[source]
        source: io::Error,
    },
    /// The cluster did not respond, and the program was killed.
    #[error("rbd {command} {image}: no answer of the monitors {monitors} in {} s", limit.as_secs())]
    Silent {
        command: &'static str,
        image: String,
        monitors: String,
        limit: Duration,
    },
    /// The cluster refused.
    #[error("rbd {command} {image}: exit code {code}: {last_line}")]
    Refused {
        command: &'static str,
        image: String,
        code: i32,
        /// The last line that the program wrote.
        last_line: String,
    },
    /// An image of this name exists, with another size.
    #[error(
        "the image {image} is there already, with {existing_bytes} bytes and not with {requested_bytes}"
    )]
    OtherImage {
        image: String,
        /// The size of the existing image, in bytes.
        existing_bytes: u64,
        /// The requested size, in bytes.
        requested_bytes: u64,
    },
    #[error("the answer of \"rbd status\" is not understood: {0}")]
    Status(serde_json::Error),
}

/// The pool of a cluster, and the user whose rights a call has.
#[derive(Clone)]
pub struct RbdLogin {
    /// Addresses or names of the monitors.
    pub monitors: Vec<String>,
    pub pool: String,
    /// The name, without `client.`.
    pub user: String,
    /// `None` in a cluster without authentication.
    pub key: Option<String>,
}

impl fmt::Debug for RbdLogin {
    /// The output leaves out the key, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RbdLogin")
            .field("monitors", &self.monitors)
            .field("pool", &self.pool)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The program. If the future of a call is dropped, the program is killed.
#[derive(Clone, Debug)]
pub struct RbdProgram {
    path: PathBuf,
    /// Limit of the time of a call.
    limit: Duration,
}

impl Default for RbdProgram {
    /// The program that `PATH` leads to.
    fn default() -> Self {
        Self {
            path: "rbd".into(),
            limit: CALL_MAX,
        }
    }
}

impl RbdProgram {
    /// Creates an image, unless an earlier attempt has created it.
    ///
    /// # Errors
    /// See [`RbdProgramError`].
    pub async fn create(
        &self,
        login: &RbdLogin,
        image: &str,
        mebibytes: u64,
        format: &ImageFormat,
    ) -> Result<(), RbdProgramError> {
        let arguments = creation(mebibytes, format);
        let call = self.call(login, "create", image, &arguments).await?;
        if call.code() != Some(EXISTS) {
            return call.succeeded().map(drop);
        }
        let (existing_bytes, requested_bytes) = (self.size(login, image).await?, mebibytes << 20);
        match existing_bytes == requested_bytes {
            true => Ok(()),
            false => Err(RbdProgramError::OtherImage {
                image: format!("{}/{image}", login.pool),
                existing_bytes,
                requested_bytes,
            }),
        }
    }

    /// Lets an image grow, unless it has the size already. It never shrinks.
    ///
    /// # Errors
    /// See [`RbdProgramError`].
    pub async fn grow(
        &self,
        login: &RbdLogin,
        image: &str,
        mebibytes: u64,
    ) -> Result<(), RbdProgramError> {
        if self.size(login, image).await? >= mebibytes << 20 {
            return Ok(());
        }
        let arguments = ["--size", &mebibytes.to_string(), "--no-progress"].map(str::to_owned);
        let call = self.call(login, "resize", image, &arguments).await?;
        call.succeeded().map(drop)
    }

    /// The size of an image in bytes.
    async fn size(&self, login: &RbdLogin, image: &str) -> Result<u64, RbdProgramError> {
        let call = self.call(login, "info", image, &as_json()).await?;
        Ok(size(&call.succeeded()?).unwrap_or_default())
    }

    /// Removes an image; a missing image is no error.
    ///
    /// # Errors
    /// See [`RbdProgramError`]; an image that is mapped somewhere stays.
    pub async fn remove(&self, login: &RbdLogin, image: &str) -> Result<(), RbdProgramError> {
        let arguments = ["--no-progress".to_owned()];
        let call = self.call(login, "rm", image, &arguments).await?;
        match call.code() {
            Some(NOT_FOUND) => Ok(()),
            _ => call.succeeded().map(drop),
        }
    }

    /// The addresses of the clients that have an image open, except for `local_address`.
    ///
    /// # Errors
    /// See [`RbdProgramError`].
    pub async fn other_watchers(
        &self,
        login: &RbdLogin,
        image: &str,
        local_address: &str,
    ) -> Result<Vec<String>, RbdProgramError> {
        let call = self.call(login, "status", image, &as_json()).await?;
        other_watchers(&call.succeeded()?, local_address).map_err(RbdProgramError::Status)
    }

    async fn call(
        &self,
        login: &RbdLogin,
        command: &'static str,
        image: &str,
        arguments: &[String],
    ) -> Result<Call, RbdProgramError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => RbdProgramError::Missing,
            _ => RbdProgramError::Run { command, source },
        };
        let mut rbd = Command::new(&self.path);
        rbd.args([command, image])
            .args(arguments)
            .args(["--pool", &login.pool])
            .args(["--id", &login.user])
            .args(["-m", &login.monitors.join(",")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if login.key.is_some() {
            rbd.args(["--keyfile", "/dev/stdin"]);
        }
        let rbd = rbd.spawn().map_err(failed)?;
        match timeout(self.limit, output(rbd, login.key.as_deref())).await {
            Ok(output) => Ok(Call {
                command,
                image: format!("{}/{image}", login.pool),
                output: output.map_err(failed)?,
            }),
            Err(_) => Err(RbdProgramError::Silent {
                command,
                image: image.to_owned(),
                monitors: login.monitors.join(","),
                limit: self.limit,
            }),
        }
    }
}

/// The key is passed through a pipe, because every user of the machine can read the arguments of a process.
async fn output(mut rbd: Child, key: Option<&str>) -> io::Result<Output> {
    if let (Some(mut input), Some(key)) = (rbd.stdin.take(), key) {
        // A program that has ended reports its reason itself.
        input.write_all(key.as_bytes()).await.ok();
    }
    rbd.wait_with_output().await
}

/// A call that has ended.
struct Call {
    command: &'static str,
    /// `POOL/IMAGE`.
    image: String,
    output: Output,
}

impl Call {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// The output of a call without an error.
    fn succeeded(self) -> Result<Vec<u8>, RbdProgramError> {
        if self.output.status.success() {
            return Ok(self.output.stdout);
        }
        let text = String::from_utf8_lossy(&self.output.stderr);
        let error_line = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("rbd:"));
        let last = || {
            text.lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty())
        };
        Err(RbdProgramError::Refused {
            command: self.command,
            code: self.code().unwrap_or(-1),
            image: self.image,
            last_line: error_line.or_else(last).unwrap_or_default().to_owned(),
        })
    }
}

fn as_json() -> [String; 2] {
    ["--format", "json"].map(str::to_owned)
}

fn creation(mebibytes: u64, format: &ImageFormat) -> Vec<String> {
    let size = mebibytes.to_string();
    let mut arguments = vec!["--size", &size, "--image-format"];
    let features = match format {
        ImageFormat::One => {
            arguments.push("1");
            return arguments.into_iter().map(str::to_owned).collect();
        }
        ImageFormat::Two(features) => features.join(","),
    };
    // Without this argument the image would have the default features of the cluster.
    arguments.extend(["2", "--image-feature", &features]);
    arguments.into_iter().map(str::to_owned).collect()
}

/// The size in the output of `rbd info`.
fn size(output: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Info {
        size: u64,
    }
    let info: Info = serde_json::from_slice(output).ok()?;
    Some(info.size)
}

/// The addresses of other clients in the output of `rbd status`.
fn other_watchers(output: &[u8], local_address: &str) -> serde_json::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        watchers: Vec<Watcher>,
    }
    #[derive(Deserialize)]
    struct Watcher {
        address: String,
    }
    let status: Status = serde_json::from_slice(output)?;
    let addresses = status.watchers.into_iter().map(|watcher| watcher.address);
    Ok(addresses
        .filter(|address| address != local_address)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn login() -> RbdLogin {
        RbdLogin {
            monitors: vec!["10.0.0.1:6789".to_owned(), "10.0.0.2".to_owned()],
            pool: "kube".to_owned(),
            user: "root".to_owned(),
            key: Some("AQ==".to_owned()),
        }
    }

    fn layering() -> ImageFormat {
        ImageFormat::Two(vec!["layering".to_owned()])
    }

    /// A program that records its arguments and its input, and executes the script.
    fn fake(dir: &Path, script: &str) -> RbdProgram {
        let path = dir.join("rbd");
        let log = dir.join("log");
        let text = format!(
            "#!/bin/sh\necho \"$* < $(cat)\" >> {}\n{script}\n",
            log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        RbdProgram {
            path,
            ..RbdProgram::default()
        }
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
        rbd.create(&login(), "i", 2, &layering()).await.unwrap();
        rbd.remove(&login(), "i").await.unwrap();
        let expected = format!(
            "create i --size 2 --image-format 2 --image-feature layering {LOGIN}\
             rm i --no-progress {LOGIN}"
        );
        assert_eq!(log(temp.path()), expected);
        let old = creation(1, &ImageFormat::One).join(" ");
        assert_eq!(old, "--size 1 --image-format 1");
    }

    #[tokio::test]
    async fn an_image_of_an_earlier_attempt_is_taken_and_another_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let script = "case $1 in create) exit 17 ;; info) echo '{\"size\": 2097152}' ;; esac";
        let rbd = fake(temp.path(), script);
        rbd.create(&login(), "i", 2, &layering()).await.unwrap();
        assert!(log(temp.path()).contains("info i --format json"));
        let error = rbd.create(&login(), "i", 3, &layering()).await.unwrap_err();
        assert!(
            matches!(
                error,
                RbdProgramError::OtherImage {
                    existing_bytes: 2_097_152,
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
        rbd.grow(&login(), "i", 3).await.unwrap();
        let expected =
            format!("info i --format json {LOGIN}resize i --size 3 --no-progress {LOGIN}");
        assert_eq!(log(temp.path()), expected);
        for size in [1, 2] {
            rbd.grow(&login(), "i", size).await.unwrap();
        }
        assert_eq!(log(temp.path()).matches("resize").count(), 1);
    }

    #[tokio::test]
    async fn errors_say_what_the_cluster_said() {
        let temp = tempfile::tempdir().unwrap();
        let rbd = fake(temp.path(), "exit 2");
        rbd.remove(&login(), "i").await.unwrap();
        let script =
            "echo 'x librbd: no' >&2; echo 'rbd: error: image still has watchers' >&2; exit 16";
        let rbd = fake(temp.path(), script);
        let error = rbd.remove(&login(), "i").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "rbd rm kube/i: exit code 16: rbd: error: image still has watchers"
        );
        let missing = RbdProgram {
            path: temp.path().join("none"),
            ..RbdProgram::default()
        };
        let error = missing.remove(&login(), "i").await.unwrap_err();
        assert!(matches!(error, RbdProgramError::Missing), "{error}");
    }

    #[tokio::test]
    async fn the_clients_of_an_image_are_asked_without_a_key_if_there_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let rbd = fake(temp.path(), "echo '{\"watchers\": [{\"address\": \"a\"}]}'");
        let open = RbdLogin {
            key: None,
            ..login()
        };
        assert_eq!(rbd.other_watchers(&open, "i", "b").await.unwrap(), ["a"]);
        let expected =
            "status i --format json --pool kube --id root -m 10.0.0.1:6789,10.0.0.2 < \n";
        assert_eq!(log(temp.path()), expected);
        assert!(!format!("{:?}", login()).contains("AQ=="));
    }

    #[tokio::test]
    async fn a_call_ends_after_its_time_and_with_its_caller() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 600", file.display());
        let mut rbd = fake(temp.path(), &script);
        let process = || {
            let pid = fs::read_to_string(&file).unwrap_or_default();
            (!pid.trim().is_empty()).then(|| Path::new("/proc").join(pid.trim()).join("exe"))
        };
        {
            let login = login();
            let mut call = Box::pin(rbd.remove(&login, "i"));
            tokio::select! {
                ended = &mut call => panic!("{ended:?}"),
                () = until(|| process().is_some()) => {}
            }
        }
        until(|| process().is_some_and(|exe| !exe.exists())).await;

        rbd.limit = Duration::from_secs(1);
        let error = rbd.remove(&login(), "i").await.unwrap_err();
        assert!(matches!(error, RbdProgramError::Silent { .. }), "{error}");
        until(|| process().is_some_and(|exe| !exe.exists())).await;
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn other_clients_of_an_image_are_counted_without_this_one() {
        let status = r#"{"watchers":[{"address":"10.0.2.15:0/77","client":1,"cookie":2},
            {"address":"10.0.2.16:0/5","client":3,"cookie":4}]}"#;
        assert_eq!(
            other_watchers(status.as_bytes(), "10.0.2.15:0/77").unwrap(),
            ["10.0.2.16:0/5"]
        );
        let none = other_watchers(br#"{"watchers":[]}"#, "a").unwrap();
        assert_eq!(none, Vec::<String>::new());
        assert!(other_watchers(b"rbd: error", "a").is_err());
    }
}
