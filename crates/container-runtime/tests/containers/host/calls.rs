//! System calls that administer the machine.

use super::{Rights, attack, refused};
use crate::harness::Harness;

/// Attempts a call. The arguments are zero, so the call changes nothing if it is allowed.
fn attempt(name: &str, number: libc::c_long, arguments: &str) -> String {
    format!("try '{name}', call({number}, {arguments});\n")
}

/// Protected by the capabilities that a container does not have, even without a filter. Capabilities in a
/// pod's user namespace are valid only in the pod's namespaces.
#[tokio::test]
async fn administration_needs_rights_that_no_container_has() {
    let harness = Harness::new("administration");
    let table: &[(&str, libc::c_long, &str)] = &[
        ("mount", libc::SYS_mount, "'none', '/tmp', 'tmpfs', 0, 0"),
        ("umount", libc::SYS_umount2, "'/proc/sys', 2"),
        ("pivot_root", libc::SYS_pivot_root, "'/tmp', '/tmp'"),
        ("new root", libc::SYS_unshare, "0x20000"),
        ("new groups", libc::SYS_unshare, "0x2000000"),
        ("init_module", libc::SYS_init_module, "0, 0, ''"),
        ("finit_module", libc::SYS_finit_module, "0, '', 0"),
        ("delete_module", libc::SYS_delete_module, "'none', 0"),
        ("kexec", libc::SYS_kexec_load, "0, 0, 0, 0"),
        // Without its magic numbers, the call does nothing.
        ("reboot", libc::SYS_reboot, "0, 0, 0, 0"),
        ("swapon", libc::SYS_swapon, "'/tmp', 0"),
        ("sethostname", libc::SYS_sethostname, "'evil', 4"),
        ("acct", libc::SYS_acct, "'/tmp/acct'"),
        (
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            "0, pack('IIQ', 8, 1, 2), 0",
        ),
        ("fanotify", libc::SYS_fanotify_init, "4, 0"),
        ("lower niceness", libc::SYS_setpriority, "0, 0, -10"),
    ];
    let script: String = table
        .iter()
        .map(|(name, number, arguments)| attempt(name, *number, arguments))
        .collect();
    for rights in Rights::ALL {
        let output = attack(&harness, rights, &script).await;
        // Not every kernel has modules, `kexec` and accounting.
        let errors = [
            "Operation not permitted",
            "Permission denied",
            "Function not implemented",
        ];
        refused(&output, table.len(), &errors);
    }
    harness.end().await;
}

/// Protected only by the filter `RuntimeDefault`, because the kernel lets any user make these calls;
/// findings S28.
#[tokio::test]
async fn the_default_filter_keeps_calls_with_a_history_from_anybody() {
    let harness = Harness::new("filter");
    let table: &[(&str, libc::c_long, &str)] = &[
        ("new users", libc::SYS_unshare, "0x10000000"),
        (
            "child with new users",
            libc::SYS_clone,
            "0x10000011, 0, 0, 0, 0",
        ),
        ("keyctl", libc::SYS_keyctl, "0, -3, 0"),
        ("add_key", libc::SYS_add_key, "'user', 'k', 'x', 1, -3"),
        ("io_uring", libc::SYS_io_uring_setup, "1, 0"),
        ("userfaultfd", libc::SYS_userfaultfd, "1"),
        ("AF_VSOCK", libc::SYS_socket, "40, 1, 0"),
        ("AF_ALG", libc::SYS_socket, "38, 5, 0"),
        ("READ_IMPLIES_EXEC", libc::SYS_personality, "0x400000"),
        ("ADDR_NO_RANDOMIZE", libc::SYS_personality, "0x40000"),
        ("bpf", libc::SYS_bpf, "0, 0, 0"),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            "0, 0, -1, -1, 0",
        ),
        ("move_pages", libc::SYS_move_pages, "0, 0, 0, 0, 0, 0"),
        ("open_tree", libc::SYS_open_tree, "-100, '/', 1"),
    ];
    let script: String = table
        .iter()
        .map(|(name, number, arguments)| attempt(name, *number, arguments))
        .collect();
    let output = attack(&harness, Rights::Restricted, &script).await;
    refused(&output, table.len(), &["Operation not permitted"]);
    let open_tree_attr = attempt("open_tree_attr", 467, "-100, '/', 1, 0, 0");
    let output = attack(&harness, Rights::Restricted, &open_tree_attr).await;
    refused(&output, 1, &["Function not implemented"]);
    harness.end().await;
}

/// Protected by `drop: [ALL]`: raw sockets can read and forge the traffic of other pods.
#[tokio::test]
async fn raw_sockets_go_with_their_capability() {
    let harness = Harness::new("raw");
    let raw = libc::SYS_socket;
    let script = format!(
        "try 'raw', call({raw}, 2, 3, 1); try 'packet', call({raw}, 17, 3, 0x300); \
         try 'raw 6', call({raw}, 10, 3, 58);"
    );
    let output = attack(&harness, Rights::Restricted, &script).await;
    refused(&output, 3, &["Operation not permitted"]);
    harness.end().await;
}
