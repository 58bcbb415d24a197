//! Processes of the node and of other pods.

use container_runtime::spec::SandboxSpec;

use super::{Rights, attack, perl};
use crate::harness::{Harness, logged, run, sandbox_spec, start};

/// Protected by the process namespace of each container, and by the kernel's check of the right to trace.
#[tokio::test]
async fn processes_of_others_are_neither_seen_nor_traced() {
    let harness = Harness::new("others");
    let victim = harness.sandbox("victim").await;
    start(&victim, &harness.container("v", &["sleep", "1000"])).await;
    let shim = victim.state().await.unwrap().pid;
    let pid = std::process::id();
    // PTRACE_ATTACH, PTRACE_SEIZE, process_vm_readv, pidfd_open.
    let script = format!(
        r#"
        my @seen = grep $_ != $$, processes;
        print "sees @seen\n" if @seen;
        for my $pid ({shim}, {pid}) {{
            try "kill", kill(0, $pid);
            try "attach", call({ptrace}, 16, $pid, 0, 0);
            try "seize", call({ptrace}, 0x4206, $pid, 0, 0);
            try "pidfd", call({pidfd_open}, $pid, 0);
            try "environment", open(my $in, "<", "/proc/$pid/environ");
            try "root", opendir(my $dir, "/proc/$pid/root");
        }}
        "#,
        ptrace = libc::SYS_ptrace,
        pidfd_open = libc::SYS_pidfd_open,
    );
    for rights in Rights::ALL {
        for line in attack(&harness, rights, &script).await {
            let absent = line.ends_with(": No such process")
                || line.ends_with(": No such file or directory")
                || line.ends_with(": Operation not permitted");
            assert!(absent, "{rights:?}: {line}");
        }
    }
    harness.end().await;
}

/// A container with the node's processes (`hostPID`) still cannot inspect the shims, because it lacks their
/// rights.
///
/// Protected by the kernel's check of the right to inspect: the default capabilities are fewer than the
/// shim's, and so are the capabilities in a pod's user namespace.
#[tokio::test]
async fn who_sees_the_nodes_processes_does_not_get_into_them() {
    let harness = Harness::new("host-pid");
    let victim = harness.sandbox("victim").await;
    let shim = victim.state().await.unwrap().pid;
    let spec = SandboxSpec {
        host_pid: true,
        ..sandbox_spec("p1")
    };
    let sandbox = harness.runtime.create_sandbox(spec).await.unwrap();
    let script = format!(
        r#"
        try "seen", -d "/proc/{shim}";
        try "root", opendir(my $dir, "/proc/{shim}/root/");
        try "descriptors", open(my $null, "<", "/proc/{shim}/fd/0");
        try "program", open(my $program, "<", "/proc/{shim}/exe");
        try "memory", open(my $memory, "+<", "/proc/{shim}/mem");
        try "attach", call({ptrace}, 0x4206, {shim}, 0, 0);
        try "namespaces", open(my $ns, "<", "/proc/{shim}/ns/mnt");
        "#,
        ptrace = libc::SYS_ptrace,
    );
    let spec = perl(&harness, "a", &script);
    run(&sandbox, &spec).await;
    let output = logged(&spec);
    assert_eq!(output.len(), 7, "{output:#?}");
    assert_eq!(output[0], "seen: done");
    assert!(
        output[1..].iter().all(|line| !line.ends_with("done")),
        "{output:#?}"
    );
    harness.end().await;
}
