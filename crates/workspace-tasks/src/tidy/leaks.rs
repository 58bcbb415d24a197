//! Leaks: only data from the start of the program may live for ever. Objects that a user creates
//! and deletes leave no memory behind.

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;

/// Functions that never release memory.
const LEAKS: &[&str] = &["::leak(", ".leak(", "mem::forget("];

/// Exceptions with their reasons.
const ALLOWED: &[(&str, &str)] = &[
    (
        "crates/container-runtime/src/shim/mod.rs",
        "a lock that is held until the process ends, once in each process",
    ),
    (
        "crates/host-kernel/src/timed_call.rs",
        "a key for each call that the kernel holds now; it goes when the call returns",
    ),
];

/// Checks the sources; tests may leak.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let ruled = files.iter().filter(|file| {
        let source = file.path.starts_with("crates/") && file.path.contains("/src/");
        source && !file.path.starts_with("crates/workspace-tasks/")
    });
    let mut findings = Vec::new();
    let mut exceptions = Exceptions::new("leaks.rs", ALLOWED.iter().map(|(path, _)| *path));
    for file in ruled {
        let mut report = |what: &str| {
            if exceptions.allow(&file.path) {
                return;
            }
            findings.push(Finding {
                file: file.path.clone(),
                text: format!(
                    "{what}: memory that is never released; let the owner store it and lend it, or \
                     give the reason in tidy/leaks.rs"
                ),
            });
        };
        for word in LEAKS.iter().filter(|word| file.code.contains(**word)) {
            report(&format!("{word}…)"));
        }
        for line in file.code.lines().filter(|line| is_growing_static(line)) {
            report(line.trim());
        }
    }
    findings.extend(exceptions.unneeded(files));
    findings
}

/// Whether a line declares a collection that lives as long as the program and can grow.
fn is_growing_static(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches("pub ");
    let locked = ["Mutex<", "RwLock<"];
    let grows = ["Map<", "Set<", "Vec<", "String>"];
    line.starts_with("static ")
        && locked.iter().any(|word| line.contains(word))
        && grows.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding_count(path: &str, text: &str) -> usize {
        check(&[SourceFile::new(path, text)]).len()
    }

    // findings A5
    #[test]
    fn what_is_kept_for_ever_is_found() {
        let source = "crates/a/src/b.rs";
        assert_eq!(finding_count(source, "let text = Box::leak(text);"), 1);
        assert_eq!(finding_count(source, "text.into_boxed_str().leak()"), 1);
        assert_eq!(
            finding_count(source, "    static KNOWN: Mutex<BTreeMap<String, u8>> = x;"),
            1
        );
        assert_eq!(
            finding_count(source, "static FIXED: OnceLock<Vec<u8>> = x;"),
            0
        );
        let test = "#[cfg(test)]\nfn a() { let text = Box::leak(text); }";
        assert_eq!(finding_count(source, test), 0);
        let after = format!("{test}\nfn b() {{ let text = Box::leak(text); }}");
        assert_eq!(finding_count(source, &after), 1);
        let (tests, shim) = ("crates/a/tests/b.rs", ALLOWED[0].0);
        assert_eq!(finding_count(tests, "Box::leak(text)"), 0);
        assert_eq!(finding_count(shim, "std::mem::forget(lock)"), 0);
    }
}
