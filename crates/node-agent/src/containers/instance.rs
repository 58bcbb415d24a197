//! One instance of a container as the pod's status reports it: its id, image and user, its exit and its
//! termination message.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use container_runtime::spec::{Exit as RuntimeExit, ResolvedUser};
use host_kernel::tree;
use k8s_openapi::api::core::v1::Container;
use object_model::Uid;
use pod_lifecycle::record::{Exit, Running, User};
use pod_lifecycle::{Moment, messages};
use sha2::{Digest, Sha256};

use super::logs;
use crate::images::by_digest;
use crate::limits::{TERMINATION_LOG_BYTES, TERMINATION_LOG_LINES, TERMINATION_MESSAGE_BYTES_MAX};
use crate::paths::PodDir;

/// The user and groups of a container's process, in the form of the record.
pub(crate) fn user_of(user: &ResolvedUser) -> User {
    User {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
    }
}

/// The image id for statuses: the digest in a registry, if there is one.
pub(crate) fn image_id(image: &image_store::Image) -> String {
    image.references.first().map_or_else(
        || image.id.clone(),
        |reference| by_digest(reference, &image.digest),
    )
}

/// The stop signal of an image's containers; `SIGTERM` if the image names no signal.
pub(crate) fn stop_signal(image: &image_store::Image) -> String {
    let signal = image.config.stop_signal.as_deref();
    signal.unwrap_or("SIGTERM").to_owned()
}

/// `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3` as a number.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.parse().ok()?
        };
        return Some(nix::libc::SIGRTMIN() + offset);
    }
    format!("SIG{bare}")
        .parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

/// The id of an instance in the pod's status: 64 hexadecimal digits, globally unique.
pub(crate) fn public_id(uid: &Uid, container: &str, restart_count: u32) -> String {
    let digest = Sha256::digest(format!("{uid}/{container}/{restart_count}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn create_message_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, "")?;
    // Any user in the container may write the termination message.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

/// The exit of an instance for the pod's status. The runtime reports only wall-clock times.
pub(crate) fn exit_of(
    running: &Running,
    exit: &RuntimeExit,
    message: Option<String>,
    now: Moment,
) -> Exit {
    let reason = match (&exit.start_error, exit.oom_killed, exit.code) {
        (Some(_), _, _) => messages::START_ERROR,
        (None, true, _) => "OOMKilled",
        (None, false, 0) => "Completed",
        (None, false, _) => "Error",
    };
    let finished_at = now.past(exit.finished_at);
    Exit {
        code: exit.code,
        signal: exit.signal,
        reason: reason.to_owned(),
        message: exit
            .start_error
            .as_ref()
            .map(|error| error.message.clone())
            .or(message),
        started_at: exit.started_at.or(Some(running.started_at.wall)),
        finished_at,
        by_node: false,
        ..running.lost(finished_at)
    }
}

/// The container's termination message: its message file, or the end of its log if requested. Reads files.
pub(crate) fn termination_message(
    dir: &PodDir,
    container: &Container,
    restart_count: u32,
    code: i32,
) -> Option<String> {
    let path = dir.termination_log(&container.name, restart_count);
    let message = read_limited(&path, TERMINATION_MESSAGE_BYTES_MAX as u64).unwrap_or_default();
    if !message.is_empty() {
        return Some(message);
    }
    let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !from_log || code == 0 {
        return None;
    }
    let log = dir.log(&container.name, restart_count);
    let tail = logs::tail(&log, TERMINATION_LOG_LINES, TERMINATION_LOG_BYTES);
    (!tail.is_empty()).then_some(tail)
}

fn read_limited(path: &Path, limit: u64) -> std::io::Result<String> {
    let mut file = tree::open_file(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_by_digest() {
        let mut image = image_store::Image {
            id: "sha256:c".to_owned(),
            digest: "sha256:m".to_owned(),
            references: vec!["localhost:5000/a/b:1".to_owned()],
            config: Default::default(),
            layers: Vec::new(),
            size: 0,
            pinned: false,
        };
        assert_eq!(image_id(&image), "localhost:5000/a/b@sha256:m");
        image.references = vec!["localhost:5000/a/b".to_owned()];
        assert_eq!(image_id(&image), "localhost:5000/a/b@sha256:m");
        image.references.clear();
        assert_eq!(image_id(&image), "sha256:c");
    }

    #[test]
    fn termination_messages_come_from_the_file_or_the_log() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::at(temp.path().to_path_buf());
        let mut container = Container {
            name: "c".to_owned(),
            ..Container::default()
        };
        fs::create_dir_all(dir.logs("c")).unwrap();
        fs::write(
            dir.log("c", 0),
            "2026-01-01T00:00:00.000000000Z stderr F boom\n",
        )
        .unwrap();
        create_message_file(&dir.termination_log("c", 0)).unwrap();
        assert_eq!(termination_message(&dir, &container, 0, 1), None);
        container.termination_message_policy = Some("FallbackToLogsOnError".to_owned());
        assert_eq!(
            termination_message(&dir, &container, 0, 1).as_deref(),
            Some("boom\n")
        );
        assert_eq!(termination_message(&dir, &container, 0, 0), None);
        fs::write(dir.termination_log("c", 0), "out of cheese").unwrap();
        assert_eq!(
            termination_message(&dir, &container, 0, 1).as_deref(),
            Some("out of cheese")
        );
    }

    #[test]
    fn signals_by_name_and_number() {
        for (name, expected) in [
            ("SIGTERM", Some(15)),
            ("QUIT", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("nonsense", None),
            ("99", None),
        ] {
            assert_eq!(signal_number(name), expected, "{name}");
        }
    }
}
