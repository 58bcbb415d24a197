//! The host cannot be reached from a container: one test for each attack that is known from other runtimes.
//!
//! Each attack runs inside a real container, with the means of an attacker: any system call (with perl),
//! the files of the image, and commands. The comment of a test names the protection; without the
//! protection, the test fails.

mod calls;
mod descriptors;
mod files;
mod identity;
mod keyrings;
mod others;
mod program;

use container_runtime::spec::{ContainerSpec, SandboxSpec, Seccomp};
use container_runtime::{RuntimeError, Sandbox};

use crate::harness::{Harness, logged, run, sandbox_spec};

/// The rights of the attacker's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// A pod without a security context: root with the default capabilities, and all system calls.
    Default,
    /// The level `restricted` of Pod Security.
    Restricted,
    /// The default with a user namespace (`hostUsers: false`).
    OwnUsers,
}

impl Rights {
    const ALL: [Rights; 3] = [Rights::Default, Rights::Restricted, Rights::OwnUsers];

    async fn sandbox(self, harness: &Harness) -> Sandbox {
        let spec = SandboxSpec {
            own_users: self == Rights::OwnUsers,
            ..sandbox_spec(&format!("{self:?}"))
        };
        harness.runtime.create_sandbox(spec).await.unwrap()
    }

    fn give(self, mut spec: ContainerSpec) -> ContainerSpec {
        if self == Rights::Restricted {
            spec.user.uid = Some(1000);
            spec.user.gid = Some(1000);
            spec.security.capabilities_drop = vec!["ALL".into()];
            spec.security.no_new_privileges = true;
            spec.security.seccomp = Seccomp::RuntimeDefault;
        }
        spec
    }
}

/// The first lines of every script: `try` prints the result of an attempt.
const PRELUDE: &str = r#"
    $| = 1;
    sub try { my ($what, $done) = @_; print "$what: ", ($done ? "done" : "$!"), "\n"; }
    sub call { my ($number, @arguments) = @_; return syscall($number, @arguments) >= 0; }
    sub processes { opendir my $all, "/proc"; return grep /^\d+$/, readdir $all; }
"#;

/// A container that runs a perl script.
fn perl(harness: &Harness, id: &str, script: &str) -> ContainerSpec {
    harness.container(id, &["perl", "-e", &format!("{PRELUDE}{script}")])
}

/// The lines that a perl script prints in a container with these rights.
async fn attack(harness: &Harness, rights: Rights, script: &str) -> Vec<String> {
    let sandbox = rights.sandbox(harness).await;
    let spec = rights.give(perl(harness, "attacker", script));
    let exit = run(&sandbox, &spec).await;
    let output = logged(&spec);
    assert_eq!(exit.code, 0, "{rights:?}: {output:?}");
    sandbox.destroy().await.unwrap();
    output
}

/// Checks that each attempt of a script was rejected with one of these errors.
fn refused(output: &[String], attempts: usize, errors: &[&str]) {
    assert_eq!(output.len(), attempts, "{output:#?}");
    for line in output {
        let (_, error) = line.split_once(": ").unwrap();
        assert!(errors.contains(&error), "{line}");
    }
}

/// The error of creating or starting a container with this specification.
async fn refusal(sandbox: &Sandbox, spec: ContainerSpec) -> RuntimeError {
    let id = spec.id.clone();
    if let Err(error) = sandbox.create_container(spec).await {
        return error;
    }
    let error = sandbox.start(&id).await.unwrap_err();
    sandbox.remove(&id).await.unwrap();
    error
}
