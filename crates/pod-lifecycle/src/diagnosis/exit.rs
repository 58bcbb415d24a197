//! Readable descriptions of the exit of a container's process.

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated};

use super::text;

/// The exit code of a process that a signal killed is this number plus the signal.
const SIGNAL_BASE: i32 = 128;

/// For instance `exit code 1 (Error): termination message`.
pub(super) fn describe(end: &ContainerStateTerminated, container: Option<&Container>) -> String {
    let reason = end.reason.as_deref().unwrap_or_default();
    let last_words = text::then(": ", end.message.as_deref().unwrap_or_default());
    let code = end.exit_code;
    if reason == "OOMKilled" {
        let limit = container.and_then(memory_limit);
        let limit = limit.map_or(String::new(), |limit| {
            format!(" beyond its limit of {limit}")
        });
        return format!("it used memory{limit} and was killed (OOMKilled){last_words}");
    }
    let signal = end.signal.filter(|signal| *signal > 0);
    let signal = signal.or_else(|| (code > SIGNAL_BASE).then(|| code - SIGNAL_BASE));
    if let Some(name) = signal.and_then(signal_name) {
        return format!("exit code {code} (signal {name}){last_words}");
    }
    match reason {
        "" => format!("exit code {code}{last_words}"),
        reason => format!("exit code {code} ({reason}){last_words}"),
    }
}

fn memory_limit(container: &Container) -> Option<&str> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Some(limits.get("memory")?.0.as_str())
}

fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        11 => "SEGV",
        13 => "PIPE",
        15 => "TERM",
        _ => return None,
    })
}
