//! The program of the runtime, which is also the program of a container's first process until `execve`
//! (CVE-2019-5736).

use std::fs;
use std::os::unix::fs::MetadataExt;

use container_runtime::RuntimeError;
use container_runtime::spec::{EnvVar, StartErrorKind};

use super::{Rights, perl, refusal};
use crate::harness::{Harness, SHIM, command, logged, start, until};

/// Protected by the comparison of the command with the shim's program; findings S2.
#[tokio::test]
async fn the_runtimes_program_is_no_command() {
    let harness = Harness::new("own-program");
    for rights in Rights::ALL {
        let sandbox = rights.sandbox(&harness).await;
        let spec = rights.give(harness.container("a", &["/proc/self/exe"]));
        let error = refusal(&sandbox, spec).await;
        let is_refused = |error: &RuntimeError| {
            matches!(error, RuntimeError::Start(error)
                if error.kind == StartErrorKind::CommandNotExecutable
                    && error.message.contains("own program"))
        };
        assert!(is_refused(&error), "{rights:?}: {error}");
        let waits = rights.give(harness.container("b", &["sleep", "1000"]));
        start(&sandbox, &waits).await;
        for path in [
            "/proc/self/exe",
            "/proc/thread-self/exe",
            "/bin/../proc/self/exe",
        ] {
            let error = sandbox.exec(command("b", &[path])).await.unwrap_err();
            assert!(is_refused(&error), "{rights:?}: {path}: {error}");
        }
    }
    harness.end().await;
}

/// A script with the interpreter `/proc/self/exe` runs the shim's program with the dynamic linker of the
/// image. A pipe in place of a library delays the program, so that other processes of the container can
/// open it.
///
/// Protected by the read-only mount from which shims are executed; findings S2.
#[tokio::test]
async fn the_nodes_file_of_the_program_cannot_be_changed() {
    let harness = Harness::new("program-file");
    let facts = || {
        let facts = fs::metadata(SHIM).unwrap();
        (
            facts.mode(),
            facts.uid(),
            facts.gid(),
            facts.mtime(),
            facts.mtime_nsec(),
            facts.size(),
        )
    };
    let before = facts();
    let script = format!(
        r#"
        system "mkfifo", "/tmp/pipe";
        try "pipe", -p "/tmp/pipe";
        my $victim;
        until ($victim) {{
            for my $process (grep $_ != $$, processes) {{
                open my $in, "<", "/proc/$process/cmdline" or next;
                my $line = <$in>;
                $victim = "/proc/$process" if $line =~ m{{/script}};
            }}
            select undef, undef, undef, 0.01;
        }}
        try "read", open(my $program, "<", "$victim/exe");
        try "write", open(my $other, "+<", "$victim/exe");
        try "truncate", truncate("$victim/exe", 0);
        try "mode", chmod(0{mode:o}, $program);
        try "owner", chown({uid}, {gid}, $program);
        try "time", utime(1, 1, $program);
        try "attribute", call({setxattr}, fileno $program, "user.mainstay-test", "x", 1, 0);
        "#,
        mode = before.0 & 0o777,
        uid = before.1,
        gid = before.2,
        setxattr = libc::SYS_fsetxattr,
    );
    for rights in Rights::ALL {
        let sandbox = rights.sandbox(&harness).await;
        let spec = rights.give(perl(&harness, "attacker", &script));
        start(&sandbox, &spec).await;
        until("the pipe is there", || !logged(&spec).is_empty()).await;
        let mut victim = command("attacker", &["/script"]);
        victim.env = vec![EnvVar {
            name: "LD_PRELOAD".into(),
            value: "/tmp/pipe".into(),
        }];
        victim.kill_on_drop = true;
        let session = sandbox.exec(victim).await.unwrap();
        until("it has tried all", || logged(&spec).len() == 8).await;
        drop(session);
        let output = logged(&spec);
        assert_eq!(output[..2], ["pipe: done", "read: done"], "{rights:?}");
        assert!(
            output[2..4].iter().all(|line| !line.ends_with("done")),
            "{output:#?}"
        );
        for line in &output[4..] {
            assert!(
                line.ends_with(": Read-only file system"),
                "{rights:?}: {output:#?}"
            );
        }
        assert_eq!(facts(), before, "{rights:?}");
        sandbox.destroy().await.unwrap();
    }
    harness.end().await;
}
