//! The seccomp filter `RuntimeDefault`.
//!
//! The filter decides as the default profile of Docker and containerd, published at
//! <https://github.com/moby/profiles> (May 2026). It rejects calls that administer the machine, that access
//! other processes or kernel internals, or that have a history of vulnerabilities. A call is allowed if the
//! container has a capability that the call requires. Calls that are newer than the profile, and `clone3`
//! (a filter cannot read its arguments), return `ENOSYS`, so that C libraries use an older call instead of
//! failing. Programs of another architecture, such as 32-bit programs, are rejected completely, which is
//! stricter than the profile. The filter is a plain list of comparisons in classic BPF.

use std::io;

use libc::sock_filter;

use super::capabilities::Capabilities;
use super::project_filter;
use super::seccomp_profile::{self, SeccompProfileError};
use crate::spec::{Seccomp, Security};

#[cfg(target_arch = "x86_64")]
pub(crate) const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const AUDIT_ARCH: u32 = 0xc000_00b7;

/// The newest call in the published profile (`removexattrat`). Later calls are unknown, as when libseccomp
/// compiles the profile.
const NUMBER_MAX: u32 = 466;

/// A bit in the call numbers of the x32 ABI.
#[cfg(target_arch = "x86_64")]
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// Flags of `clone` that create namespaces.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

// Offsets in `struct seccomp_data`; both architectures are little-endian.
pub(crate) const OFFSET_NUMBER: u32 = 0;
pub(crate) const OFFSET_ARCH: u32 = 4;
pub(crate) const OFFSET_FIRST_ARGUMENT: u32 = 16;

// `lsm_…` calls, which have these numbers on all architectures.
const LSM_GET_SELF_ATTR: libc::c_long = 459;
const LSM_SET_SELF_ATTR: libc::c_long = 460;
const LSM_LIST_MODULES: libc::c_long = 461;

// Calls of Linux 2.4.
#[cfg(target_arch = "x86_64")]
const CREATE_MODULE: libc::c_long = 174;
#[cfg(target_arch = "x86_64")]
const GET_KERNEL_SYMS: libc::c_long = 177;
#[cfg(target_arch = "x86_64")]
const QUERY_MODULE: libc::c_long = 178;

/// Rejected socket families, because network namespaces do not isolate them. `AF_ALG` is the kernel's
/// cryptography, `AF_VSOCK` the connection to the host of a virtual machine.
const SOCKET_FAMILIES_REFUSED: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];

/// Allowed personalities of a process: the default, `UNAME26`, `PER_LINUX32`, both, and the query. Other
/// personalities disable memory protections.
const PERSONALITIES: [u32; 5] = [0, 0x0002_0000, 0x0008, 0x0002_0008, 0xffff_ffff];

/// Rejected calls. A container may make a call if it has one of the listed capabilities.
const REFUSED: &[(libc::c_long, &[&str])] = &[
    (libc::SYS_acct, &["SYS_PACCT"]),
    (libc::SYS_add_key, &[]),
    (libc::SYS_bpf, &["BPF", "SYS_ADMIN"]),
    (libc::SYS_chroot, &["SYS_CHROOT"]),
    (libc::SYS_clock_settime, &["SYS_TIME"]),
    (libc::SYS_delete_module, &["SYS_MODULE"]),
    (libc::SYS_fanotify_init, &["SYS_ADMIN"]),
    (libc::SYS_finit_module, &["SYS_MODULE"]),
    (libc::SYS_fsconfig, &["SYS_ADMIN"]),
    (libc::SYS_fsmount, &["SYS_ADMIN"]),
    (libc::SYS_fsopen, &["SYS_ADMIN"]),
    (libc::SYS_fspick, &["SYS_ADMIN"]),
    (libc::SYS_get_mempolicy, &["SYS_NICE"]),
    (libc::SYS_init_module, &["SYS_MODULE"]),
    (libc::SYS_io_uring_enter, &[]),
    (libc::SYS_io_uring_register, &[]),
    (libc::SYS_io_uring_setup, &[]),
    (libc::SYS_kcmp, &["SYS_PTRACE"]),
    (libc::SYS_kexec_file_load, &[]),
    (libc::SYS_kexec_load, &[]),
    (libc::SYS_keyctl, &[]),
    (libc::SYS_lookup_dcookie, &["SYS_ADMIN"]),
    (LSM_GET_SELF_ATTR, &["SYS_ADMIN"]),
    (LSM_LIST_MODULES, &["SYS_ADMIN"]),
    (LSM_SET_SELF_ATTR, &["SYS_ADMIN"]),
    (libc::SYS_mbind, &["SYS_NICE"]),
    (libc::SYS_migrate_pages, &[]),
    (libc::SYS_mount, &["SYS_ADMIN"]),
    (libc::SYS_mount_setattr, &["SYS_ADMIN"]),
    (libc::SYS_move_mount, &["SYS_ADMIN"]),
    (libc::SYS_move_pages, &[]),
    (libc::SYS_nfsservctl, &[]),
    (libc::SYS_open_by_handle_at, &["DAC_READ_SEARCH"]),
    (libc::SYS_open_tree, &["SYS_ADMIN"]),
    (libc::SYS_perf_event_open, &["PERFMON", "SYS_ADMIN"]),
    (libc::SYS_pidfd_getfd, &["SYS_PTRACE"]),
    (libc::SYS_pivot_root, &[]),
    (libc::SYS_process_madvise, &["SYS_PTRACE"]),
    (libc::SYS_quotactl, &["SYS_ADMIN"]),
    (libc::SYS_quotactl_fd, &["SYS_ADMIN"]),
    (libc::SYS_reboot, &["SYS_BOOT"]),
    (libc::SYS_request_key, &[]),
    (libc::SYS_set_mempolicy, &["SYS_NICE"]),
    (libc::SYS_set_mempolicy_home_node, &["SYS_NICE"]),
    (libc::SYS_setdomainname, &["SYS_ADMIN"]),
    (libc::SYS_sethostname, &["SYS_ADMIN"]),
    (libc::SYS_setns, &["SYS_ADMIN"]),
    (libc::SYS_settimeofday, &["SYS_TIME"]),
    (libc::SYS_swapoff, &[]),
    (libc::SYS_swapon, &[]),
    (libc::SYS_syslog, &["SYSLOG", "SYS_ADMIN"]),
    (libc::SYS_umount2, &["SYS_ADMIN"]),
    (libc::SYS_unshare, &["SYS_ADMIN"]),
    (libc::SYS_userfaultfd, &[]),
    (libc::SYS_vhangup, &["SYS_TTY_CONFIG"]),
];

/// Rejected calls that exist only on this architecture.
#[cfg(target_arch = "x86_64")]
const REFUSED_OF_ARCH: &[(libc::c_long, &[&str])] = &[
    (libc::SYS__sysctl, &[]),
    (libc::SYS_afs_syscall, &[]),
    (CREATE_MODULE, &[]),
    (GET_KERNEL_SYMS, &[]),
    (libc::SYS_getpmsg, &[]),
    (libc::SYS_ioperm, &["SYS_RAWIO"]),
    (libc::SYS_iopl, &["SYS_RAWIO"]),
    (libc::SYS_putpmsg, &[]),
    (QUERY_MODULE, &[]),
    (libc::SYS_security, &[]),
    (libc::SYS_sysfs, &[]),
    (libc::SYS_tuxcall, &[]),
    (libc::SYS_uselib, &[]),
    (libc::SYS_ustat, &[]),
    (libc::SYS_vserver, &[]),
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OF_ARCH: &[(libc::c_long, &[&str])] = &[];

/// The start of every filter: programs of another architecture are rejected. Afterwards, the number of the
/// call is in the accumulator.
pub(crate) fn guard_architecture() -> Vec<sock_filter> {
    let mut code = vec![
        load(OFFSET_ARCH),
        // Skips the next instruction, which rejects the call.
        jump(libc::BPF_JEQ, AUDIT_ARCH, 1, 0),
        return_errno(libc::EPERM),
        load(OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    code.extend([
        jump(libc::BPF_JGE, X32_BIT, 0, 1),
        return_errno(libc::EPERM),
    ]);
    code
}

/// The programs for a container, in the order of their installation.
///
/// *Errors:* a profile of the node is invalid.
pub(crate) fn programs(
    security: &Security,
    capabilities: Capabilities,
) -> Result<Vec<Vec<sock_filter>>, SeccompProfileError> {
    if security.privileged {
        return Ok(Vec::new());
    }
    // The project filter is first, because a profile may forbid the installation of further filters.
    let projects = security.keeps_projects.then(project_filter::program);
    let profile = match &security.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(runtime_default(capabilities)),
        Seccomp::Localhost(path) => Some(seccomp_profile::program(path)?),
    };
    Ok(projects.into_iter().chain(profile).collect())
}

fn runtime_default(capabilities: Capabilities) -> Vec<sock_filter> {
    let mut code = guard_architecture();
    code.extend([
        jump(libc::BPF_JGT, NUMBER_MAX, 0, 1),
        return_errno(libc::ENOSYS),
    ]);
    for (number, lifted_by) in REFUSED.iter().chain(REFUSED_OF_ARCH) {
        if !lifted_by.iter().any(|name| capabilities.contains(name)) {
            code.extend([
                jump(libc::BPF_JEQ, *number as u32, 0, 1),
                return_errno(libc::EPERM),
            ]);
        }
    }
    let [alg, vsock] = SOCKET_FAMILIES_REFUSED;
    code.extend([
        jump(libc::BPF_JEQ, libc::SYS_socket as u32, 0, 5),
        load(OFFSET_FIRST_ARGUMENT),
        jump(libc::BPF_JEQ, alg, 1, 0),
        jump(libc::BPF_JEQ, vsock, 0, 1),
        return_errno(libc::EPERM),
        allowed(),
    ]);
    let mut personality = vec![load(OFFSET_FIRST_ARGUMENT)];
    for (at, value) in PERSONALITIES.iter().enumerate() {
        let to_the_end = PERSONALITIES.len() - at;
        personality.push(jump(libc::BPF_JEQ, *value, to_the_end as u8, 0));
    }
    personality.extend([return_errno(libc::EPERM), allowed()]);
    let personality_steps = personality.len() as u8;
    let number = libc::SYS_personality as u32;
    code.push(jump(libc::BPF_JEQ, number, 0, personality_steps));
    code.extend(personality);
    if !capabilities.contains("SYS_ADMIN") {
        code.extend([
            jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
            return_errno(libc::ENOSYS),
            jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 3),
            load(OFFSET_FIRST_ARGUMENT),
            jump(libc::BPF_JSET, CLONE_NAMESPACES, 0, 1),
            return_errno(libc::EPERM),
        ]);
    }
    code.push(allowed());
    code
}

fn allowed() -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW)
}

pub(crate) fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

pub(crate) fn return_errno(errno: i32) -> sock_filter {
    statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ERRNO | errno as u32,
    )
}

pub(crate) fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

pub(crate) fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

/// Installs a filter for this process and its descendants. The call needs no-new-privileges or
/// `CAP_SYS_ADMIN`, so it must come before the capabilities are dropped.
pub(crate) fn install(program: &mut [sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter is too long"))?;
    let filter = libc::sock_fprog {
        len,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` and its program are valid during the call, which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// An interpreter for filters, with the instructions that this crate uses.
#[cfg(test)]
pub(crate) mod machine {
    use super::*;

    /// The result of a filter for a call.
    pub(crate) fn run(code: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let op = &code[at];
            at += 1;
            let taken = match u32::from(op.code) & 0xf7 {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = match op.k {
                        OFFSET_NUMBER => number,
                        OFFSET_ARCH => arch,
                        k => {
                            let at = k - OFFSET_FIRST_ARGUMENT;
                            (arguments[(at / 8) as usize] >> (at % 8 * 8)) as u32
                        }
                    };
                    continue;
                }
                c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                    accumulator &= op.k;
                    continue;
                }
                c if c == libc::BPF_RET | libc::BPF_K => return op.k,
                c if c == libc::BPF_JMP | libc::BPF_JEQ => accumulator == op.k,
                c if c == libc::BPF_JMP | libc::BPF_JGE => accumulator >= op.k,
                c if c == libc::BPF_JMP | libc::BPF_JGT => accumulator > op.k,
                c if c == libc::BPF_JMP | libc::BPF_JSET => accumulator & op.k != 0,
                other => panic!("instruction {other:x}"),
            };
            at += usize::from(if taken { op.jt } else { op.jf });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::machine::run;
    use super::*;

    fn first(argument: u64) -> [u64; 6] {
        [argument, 0, 0, 0, 0, 0]
    }

    fn refused(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    #[test]
    fn arguments_decide_where_a_call_has_harmless_uses() {
        let code = runtime_default(Capabilities(0xa804_25fb));
        let call =
            |number: libc::c_long, argument| run(&code, AUDIT_ARCH, number as u32, first(argument));
        assert_eq!(call(libc::SYS_mount, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_keyctl, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_clone, 0x1000_0000), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_clone, 0x0001_0f00), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_clone3, 0), refused(libc::ENOSYS));
        assert_eq!(call(9999, 0), refused(libc::ENOSYS));
        // findings S28
        for family in [libc::AF_UNIX, libc::AF_INET, 37, 39, 41, 45] {
            let verdict = call(libc::SYS_socket, family as u64);
            assert_eq!(verdict, libc::SECCOMP_RET_ALLOW, "{family}");
        }
        // The kernel ignores the upper half.
        for family in [38, 40, 1 << 32 | 38, 1 << 32 | 40] {
            assert_eq!(
                call(libc::SYS_socket, family),
                refused(libc::EPERM),
                "{family}"
            );
        }
        for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert_eq!(
                call(libc::SYS_personality, persona),
                libc::SECCOMP_RET_ALLOW
            );
        }
        // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, PER_SVR4.
        for other in [0x4_0000, 0x40_0000, 0x10_0000, 1, 0x4_0008] {
            assert_eq!(call(libc::SYS_personality, other), refused(libc::EPERM));
        }
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_setuid,
        ] {
            assert_eq!(call(number, 0), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(run(&code, 0x4000_0003, 1, first(0)), refused(libc::EPERM));
    }

    /// The calls that the published profile rejects on x86-64 for all arguments: their numbers, and the
    /// capabilities that allow them. All other known calls are allowed.
    #[cfg(target_arch = "x86_64")]
    const PUBLISHED: &[(&[&str], &[u32])] = &[
        (
            &[],
            &[
                134, 136, 139, 155, 156, 167, 168, 174, 177, 178, 180, 181, 182, 183, 184, 185,
                236, 246, 248, 249, 250, 256, 279, 320, 323, 425, 426, 427,
            ],
        ),
        (&["BPF", "SYS_ADMIN"], &[321]),
        (&["DAC_READ_SEARCH"], &[304]),
        (&["PERFMON", "SYS_ADMIN"], &[298]),
        (&["SYSLOG", "SYS_ADMIN"], &[103]),
        (
            &["SYS_ADMIN"],
            &[
                165, 166, 170, 171, 179, 212, 272, 300, 308, 428, 429, 430, 431, 432, 433, 435,
                442, 443, 459, 460, 461,
            ],
        ),
        (&["SYS_BOOT"], &[169]),
        (&["SYS_CHROOT"], &[161]),
        (&["SYS_MODULE"], &[175, 176, 313]),
        (&["SYS_NICE"], &[237, 238, 239, 450]),
        (&["SYS_PACCT"], &[163]),
        (&["SYS_PTRACE"], &[312, 438, 440]),
        (&["SYS_RAWIO"], &[172, 173]),
        (&["SYS_TIME"], &[164, 227]),
        (&["SYS_TTY_CONFIG"], &[153]),
    ];

    /// findings S28
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_published_profile_decides_for_every_call_and_capability() {
        let of = |names: &[&str]| {
            let security = Security {
                capabilities_drop: vec!["ALL".to_owned()],
                capabilities_add: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Security::default()
            };
            runtime_default(
                crate::shim::confinement::capabilities::capabilities(&security).unwrap(),
            )
        };
        let all = PUBLISHED.iter().flat_map(|(lifts, _)| lifts.iter());
        let sets = all.map(|name| vec![*name]).chain([vec![]]);
        for held in sets {
            let code = of(&held);
            for number in 0..=NUMBER_MAX + 10 {
                let lifts = PUBLISHED.iter().find(|(_, calls)| calls.contains(&number));
                let expected = match lifts {
                    _ if number > NUMBER_MAX => refused(libc::ENOSYS),
                    Some((lifts, _)) if !lifts.iter().any(|lift| held.contains(lift)) => {
                        match i64::from(number) {
                            libc::SYS_clone3 => refused(libc::ENOSYS),
                            _ => refused(libc::EPERM),
                        }
                    }
                    _ => libc::SECCOMP_RET_ALLOW,
                };
                let verdict = run(&code, AUDIT_ARCH, number, first(0));
                assert_eq!(verdict, expected, "call {number} with {held:?}");
            }
        }
    }

    #[test]
    fn capabilities_lift_refusals() {
        let code = runtime_default(Capabilities(1 << 21));
        assert_eq!(
            run(&code, AUDIT_ARCH, libc::SYS_mount as u32, first(0)),
            libc::SECCOMP_RET_ALLOW
        );
        assert_eq!(
            run(&code, AUDIT_ARCH, libc::SYS_clone3 as u32, first(0)),
            libc::SECCOMP_RET_ALLOW
        );
        assert_eq!(
            run(&code, AUDIT_ARCH, libc::SYS_reboot as u32, first(0)),
            refused(libc::EPERM)
        );
    }
}
