//! Stop signals of containers, by operating system.

use object_model::FieldError;

use crate::validation::field::Field;

const WINDOWS: &[&str] = &["SIGKILL", "SIGTERM"];
const LINUX: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Checks the signal of a container of the given pod (KEP-4960, `statefulset.md` 12.6).
pub(super) fn validate(signal: &Field<'_, '_>, spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if !signal.is_set() {
        return;
    }
    let signals = match spec.get_path("os.name").text() {
        "linux" => LINUX,
        "windows" => WINDOWS,
        "" => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.push(signal.forbidden(detail));
            return;
        }
        // The operating system itself is invalid and reported elsewhere.
        _ => return,
    };
    if !signals.contains(&signal.text()) {
        errors.push(signal.not_supported(signals));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn signals_are_the_systems() {
        let check = |system: &str, signal: &str| {
            let signal = json!({"stopSignal": signal});
            let spec = json!({"os": {"name": system}});
            let mut errors = Vec::new();
            validate(
                &Field::of(&signal, "stopSignal"),
                &Field::root(&spec),
                &mut errors,
            );
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for signal in [
            "SIGTERM",
            "SIGUSR1",
            "SIGRTMIN+15",
            "SIGRTMAX-14",
            "SIGRTMAX",
        ] {
            assert_eq!(check("linux", signal), [""; 0], "{signal}");
        }
        assert_eq!(
            check("", "SIGTERM"),
            ["stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"]
        );
        assert_eq!(
            check("windows", "SIGUSR1"),
            [
                "stopSignal: Unsupported value: \"SIGUSR1\": supported values: \"SIGKILL\", \
                 \"SIGTERM\""
            ]
        );
        let refused = check("linux", "TERM");
        assert!(refused[0].starts_with(
            "stopSignal: Unsupported value: \"TERM\": supported values: \"SIGABRT\", \"SIGALRM\""
        ));
        assert!(LINUX.is_sorted());
    }
}
