//! The system call filter `RuntimeDefault`.
//!
//! It refuses the calls that administer the machine, that reach into other processes' or the
//! kernel's insides, or that have a history of holes, unless the container has the capability
//! that such a call asks for anyway. Calls younger than this list, and `clone3` (whose
//! arguments a filter cannot see), answer `ENOSYS`, so that C libraries fall back to an older
//! call instead of failing. Programs of another architecture (32-bit ones) are refused
//! altogether. The filter is a plain list of comparisons in classic BPF.

use std::io;

use libc::sock_filter;

use super::capabilities::Capabilities;
use super::{projects, seccomp_profile};
use crate::spec::{Seccomp, Security};

#[cfg(target_arch = "x86_64")]
pub(crate) const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const AUDIT_ARCH: u32 = 0xc000_00b7;

/// The youngest call of the list below (`listns`); any later one is unknown.
const NUMBER_MAX: u32 = 470;

/// Set in the numbers of the x32 ABI.
#[cfg(target_arch = "x86_64")]
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// Flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

// Offsets in `struct seccomp_data`; both architectures are little-endian.
pub(crate) const OFFSET_NUMBER: u32 = 0;
pub(crate) const OFFSET_ARCH: u32 = 4;
pub(crate) const OFFSET_FIRST_ARGUMENT: u32 = 16;

/// Refused calls with the capability that lifts the refusal (`""`: none does).
const REFUSED: &[(libc::c_long, &str)] = &[
    (libc::SYS_acct, "SYS_PACCT"),
    (libc::SYS_add_key, ""),
    (libc::SYS_bpf, "BPF"),
    (libc::SYS_clock_adjtime, "SYS_TIME"),
    (libc::SYS_clock_settime, "SYS_TIME"),
    (libc::SYS_delete_module, "SYS_MODULE"),
    (libc::SYS_fanotify_init, "SYS_ADMIN"),
    (libc::SYS_finit_module, "SYS_MODULE"),
    (libc::SYS_fsconfig, "SYS_ADMIN"),
    (libc::SYS_fsmount, "SYS_ADMIN"),
    (libc::SYS_fsopen, "SYS_ADMIN"),
    (libc::SYS_fspick, "SYS_ADMIN"),
    (libc::SYS_get_mempolicy, "SYS_NICE"),
    (libc::SYS_init_module, "SYS_MODULE"),
    (libc::SYS_io_uring_enter, ""),
    (libc::SYS_io_uring_register, ""),
    (libc::SYS_io_uring_setup, ""),
    (libc::SYS_kcmp, "SYS_PTRACE"),
    (libc::SYS_kexec_file_load, "SYS_BOOT"),
    (libc::SYS_kexec_load, "SYS_BOOT"),
    (libc::SYS_keyctl, ""),
    (libc::SYS_lookup_dcookie, "SYS_ADMIN"),
    (libc::SYS_mbind, "SYS_NICE"),
    (libc::SYS_migrate_pages, "SYS_NICE"),
    (libc::SYS_mount, "SYS_ADMIN"),
    (libc::SYS_mount_setattr, "SYS_ADMIN"),
    (libc::SYS_move_mount, "SYS_ADMIN"),
    (libc::SYS_move_pages, "SYS_NICE"),
    (libc::SYS_nfsservctl, ""),
    (libc::SYS_open_by_handle_at, "DAC_READ_SEARCH"),
    (libc::SYS_open_tree, "SYS_ADMIN"),
    (libc::SYS_perf_event_open, "PERFMON"),
    (libc::SYS_pidfd_getfd, "SYS_PTRACE"),
    (libc::SYS_pivot_root, "SYS_ADMIN"),
    (libc::SYS_process_madvise, "SYS_PTRACE"),
    (libc::SYS_quotactl, "SYS_ADMIN"),
    (libc::SYS_quotactl_fd, "SYS_ADMIN"),
    (libc::SYS_reboot, "SYS_BOOT"),
    (libc::SYS_request_key, ""),
    (libc::SYS_set_mempolicy, "SYS_NICE"),
    (libc::SYS_set_mempolicy_home_node, "SYS_NICE"),
    (libc::SYS_setdomainname, "SYS_ADMIN"),
    (libc::SYS_sethostname, "SYS_ADMIN"),
    (libc::SYS_setns, "SYS_ADMIN"),
    (libc::SYS_settimeofday, "SYS_TIME"),
    (libc::SYS_swapoff, "SYS_ADMIN"),
    (libc::SYS_swapon, "SYS_ADMIN"),
    (libc::SYS_syslog, "SYSLOG"),
    (libc::SYS_umount2, "SYS_ADMIN"),
    (libc::SYS_unshare, "SYS_ADMIN"),
    (libc::SYS_userfaultfd, "SYS_PTRACE"),
    (libc::SYS_vhangup, "SYS_TTY_CONFIG"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS__sysctl, ""),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, "SYS_RAWIO"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, "SYS_RAWIO"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_sysfs, ""),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_uselib, ""),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ustat, ""),
];

/// The beginning of every filter: programs of another architecture are refused; then the call's
/// number is in the accumulator.
pub(crate) fn guard_architecture() -> Vec<sock_filter> {
    let mut code = vec![
        load(OFFSET_ARCH),
        // Skips the refusal that follows.
        jump(libc::BPF_JEQ, AUDIT_ARCH, 1, 0),
        answer(libc::EPERM),
        load(OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    code.extend([jump(libc::BPF_JGE, X32_BIT, 0, 1), answer(libc::EPERM)]);
    code
}

/// The programs for a container, in the order in which they are to be installed.
///
/// *Errors:* the profile of the node cannot be used.
pub(crate) fn programs(
    security: &Security,
    capabilities: Capabilities,
) -> Result<Vec<Vec<sock_filter>>, String> {
    if security.privileged {
        return Ok(Vec::new());
    }
    // The first: a profile may refuse that another is installed.
    let projects = security.keeps_projects.then(projects::kept);
    let profile = match &security.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(runtime_default(capabilities)),
        Seccomp::Localhost(path) => Some(seccomp_profile::program(path)?),
    };
    Ok(projects.into_iter().chain(profile).collect())
}

fn runtime_default(capabilities: Capabilities) -> Vec<sock_filter> {
    let mut code = guard_architecture();
    code.extend([jump(libc::BPF_JGT, NUMBER_MAX, 0, 1), answer(libc::ENOSYS)]);
    for (number, lifted_by) in REFUSED {
        if !capabilities.contains(lifted_by) {
            code.extend([
                jump(libc::BPF_JEQ, *number as u32, 0, 1),
                answer(libc::EPERM),
            ]);
        }
    }
    if !capabilities.contains("SYS_ADMIN") {
        code.extend([
            jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
            answer(libc::ENOSYS),
            jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 3),
            load(OFFSET_FIRST_ARGUMENT),
            jump(libc::BPF_JSET, CLONE_NAMESPACES, 0, 1),
            answer(libc::EPERM),
        ]);
    }
    code.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ALLOW,
    ));
    code
}

pub(crate) fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

pub(crate) fn answer(errno: i32) -> sock_filter {
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

/// Installs a program for this process and all it becomes. Needs either no-new-privileges or
/// `CAP_SYS_ADMIN`, so it must come before the capabilities go.
pub(crate) fn install(program: &mut [sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter is too long"))?;
    let filter = libc::sock_fprog {
        len,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` and the program it points to live through the call, which copies them.
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

/// A machine for filters, as far as they are made of the instructions used here.
#[cfg(test)]
pub(crate) mod machine {
    use super::*;

    /// What a filter says of one call.
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
    fn filter_refuses_what_it_lists_and_allows_the_rest() {
        let code = runtime_default(Capabilities(0xa804_25fb));
        let call =
            |number: libc::c_long, argument| run(&code, AUDIT_ARCH, number as u32, first(argument));
        assert_eq!(call(libc::SYS_mount, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_keyctl, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_clone, 0x1000_0000), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_clone, 0x0001_0f00), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_clone3, 0), refused(libc::ENOSYS));
        assert_eq!(call(9999, 0), refused(libc::ENOSYS));
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
