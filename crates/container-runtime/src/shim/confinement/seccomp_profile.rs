//! Seccomp profiles of the node's administrator (`seccompProfile` of type `Localhost`).
//!
//! The file has the format of OCI container runtimes: a default action, and rules with call names, an
//! action, and conditions on arguments. Names of calls that this machine's kernel does not have are
//! skipped, as by other runtimes, because profiles are written for many machines. For each call, rules with
//! conditions come before rules without conditions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libc::sock_filter;
use serde::Deserialize;
use syscalls::Sysno;

use super::seccomp::{
    OFFSET_FIRST_ARGUMENT, OFFSET_NUMBER, guard_architecture, jump, load, statement,
};

/// Maximum number of instructions that the kernel accepts.
const INSTRUCTIONS_MAX: usize = 4096;

/// A profile in its JSON form.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: Action,
    #[serde(default)]
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: Action,
    #[serde(default)]
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

impl Action {
    /// The kernel's return value for an action; `data` is the error number, or the value for a tracer.
    fn verdict(self, data: Option<u16>) -> u32 {
        let data = u32::from(data.unwrap_or(libc::EPERM as u16));
        match self {
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Errno => libc::SECCOMP_RET_ERRNO | data,
            Action::Trace => libc::SECCOMP_RET_TRACE | data,
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }
}

/// A condition on an argument of a call.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Comparison,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Comparison {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// A profile file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot load seccomp profile {}: {cause}", path.display())]
pub(crate) struct SeccompProfileError {
    path: PathBuf,
    cause: ProfileFault,
}

#[derive(Debug, thiserror::Error)]
enum ProfileFault {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    #[error("it takes {0} instructions")]
    TooLong(usize),
    #[error("a call has no argument {0}")]
    Argument(u32),
}

/// The filter from a profile file.
///
/// # Errors
/// The file cannot be read, is malformed, or is too long for the kernel.
pub(crate) fn program(path: &Path) -> Result<Vec<sock_filter>, SeccompProfileError> {
    compile_file(path).map_err(|cause| SeccompProfileError {
        path: path.to_owned(),
        cause,
    })
}

fn compile_file(path: &Path) -> Result<Vec<sock_filter>, ProfileFault> {
    compile(&serde_json::from_slice(&fs::read(path)?)?)
}

fn compile(profile: &Profile) -> Result<Vec<sock_filter>, ProfileFault> {
    let mut code = guard_architecture();
    for with_conditions in [true, false] {
        let rules = profile.syscalls.iter();
        for rule in rules.filter(|rule| rule.args.is_empty() != with_conditions) {
            append(rule, &mut code)?;
        }
    }
    let other = profile.default_action.verdict(profile.default_errno_ret);
    code.push(statement(libc::BPF_RET | libc::BPF_K, other));
    if code.len() > INSTRUCTIONS_MAX {
        return Err(ProfileFault::TooLong(code.len()));
    }
    Ok(code)
}

fn append(rule: &Rule, code: &mut Vec<sock_filter>) -> Result<(), ProfileFault> {
    if let Some(invalid) = rule.args.iter().find(|condition| condition.index > 5) {
        return Err(ProfileFault::Argument(invalid.index));
    }
    let verdict = rule.action.verdict(rule.errno_ret);
    let numbers = rule
        .names
        .iter()
        .filter_map(|name| name.parse::<Sysno>().ok());
    for number in numbers.map(|call| call.id() as u32) {
        for conditions in alternatives(&rule.args) {
            block(number, conditions, verdict, code);
        }
    }
    Ok(())
}

/// Groups of conditions. All conditions of a group must hold. If one argument has several conditions, each
/// condition is a separate group, and any group is enough.
fn alternatives(conditions: &[Condition]) -> Vec<&[Condition]> {
    let twice = |c: &Condition| conditions.iter().filter(|o| o.index == c.index).count() > 1;
    match conditions.iter().any(twice) {
        true => conditions.chunks(1).collect(),
        false => vec![conditions],
    }
}

/// The next step of a comparison.
#[derive(Clone, Copy)]
enum NextStep {
    /// Continue with the next instruction.
    On,
    /// Skip this number of instructions.
    Skip(u8),
    /// The rule does not match.
    Out,
}

enum Step {
    Plain(sock_filter),
    Compare(u32, u32, NextStep, NextStep),
}

/// The instructions for a call with a group of conditions. The call's number is in the accumulator before
/// and after them.
fn block(number: u32, conditions: &[Condition], verdict: u32, code: &mut Vec<sock_filter>) {
    let mut steps = vec![Step::Compare(
        libc::BPF_JEQ,
        number,
        NextStep::On,
        NextStep::Out,
    )];
    for condition in conditions {
        steps.extend(comparison(condition));
    }
    steps.push(Step::Plain(statement(libc::BPF_RET | libc::BPF_K, verdict)));
    let length = steps.len();
    for (index, step) in steps.into_iter().enumerate() {
        // There are at most 6 arguments with at most 6 steps each, so each distance fits.
        let distance = |next| match next {
            NextStep::On => 0,
            NextStep::Skip(count) => count,
            NextStep::Out => (length - index - 1) as u8,
        };
        code.push(match step {
            Step::Plain(instruction) => instruction,
            Step::Compare(how, with, yes, no) => jump(how, with, distance(yes), distance(no)),
        });
    }
    if !conditions.is_empty() {
        code.push(load(OFFSET_NUMBER));
    }
}

/// Arguments have 64 bits, but filters compare 32 bits: the upper half is compared first.
fn comparison(condition: &Condition) -> Vec<Step> {
    use libc::{BPF_JEQ, BPF_JGE, BPF_JGT};
    let low_at = OFFSET_FIRST_ARGUMENT + 8 * condition.index;
    let half = |at| Step::Plain(load(at));
    let split = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = split(condition.value);
    let compare = Step::Compare;
    match condition.op {
        Comparison::Eq => vec![
            half(low_at + 4),
            compare(BPF_JEQ, high, NextStep::On, NextStep::Out),
            half(low_at),
            compare(BPF_JEQ, low, NextStep::On, NextStep::Out),
        ],
        Comparison::Ne => vec![
            half(low_at + 4),
            compare(BPF_JEQ, high, NextStep::On, NextStep::Skip(2)),
            half(low_at),
            compare(BPF_JEQ, low, NextStep::Out, NextStep::On),
        ],
        Comparison::Gt | Comparison::Ge => vec![
            half(low_at + 4),
            compare(BPF_JGT, high, NextStep::Skip(3), NextStep::On),
            compare(BPF_JEQ, high, NextStep::On, NextStep::Out),
            half(low_at),
            match condition.op {
                Comparison::Gt => compare(BPF_JGT, low, NextStep::On, NextStep::Out),
                _ => compare(BPF_JGE, low, NextStep::On, NextStep::Out),
            },
        ],
        Comparison::Lt | Comparison::Le => vec![
            half(low_at + 4),
            compare(BPF_JGT, high, NextStep::Out, NextStep::On),
            compare(BPF_JEQ, high, NextStep::On, NextStep::Skip(2)),
            half(low_at),
            match condition.op {
                Comparison::Lt => compare(BPF_JGE, low, NextStep::Out, NextStep::On),
                _ => compare(BPF_JGT, low, NextStep::Out, NextStep::On),
            },
        ],
        Comparison::MaskedEq => {
            let (high_expected, low_expected) = split(condition.value_two);
            let masked = |bits| {
                let and = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
                Step::Plain(statement(and, bits))
            };
            vec![
                half(low_at + 4),
                masked(high),
                compare(BPF_JEQ, high_expected, NextStep::On, NextStep::Out),
                half(low_at),
                masked(low),
                compare(BPF_JEQ, low_expected, NextStep::On, NextStep::Out),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::confinement::seccomp::{AUDIT_ARCH, machine};

    /// Runs a filter for a call of this machine's architecture.
    fn run(code: &[sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
        machine::run(code, AUDIT_ARCH, number, arguments)
    }

    fn compiled(rules: serde_json::Value) -> Vec<sock_filter> {
        let whole = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": rules});
        compile(&serde_json::from_value(whole).unwrap()).unwrap()
    }

    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | 38;

    #[test]
    fn calls_by_name_have_their_action_and_others_the_default() {
        // statefulset.md 12.16
        let code = compiled(serde_json::json!([
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"}]));
        let of = |number: libc::c_long| run(&code, number as u32, [0; 6]);
        assert_eq!(of(libc::SYS_read), libc::SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_reboot), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(of(libc::SYS_write), REFUSED);
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(of(libc::SYS_mkdir), libc::SECCOMP_RET_ERRNO | 13);
            let x32 = crate::shim::confinement::seccomp::X32_BIT;
            let other = run(&code, x32, [0; 6]);
            assert_eq!(other, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
        }
    }

    #[test]
    fn conditions_compare_all_bits() {
        let high = 7u64 << 32;
        for (op, value, two, holds, not) in [
            ("EQ", high | 5, 0, vec![high | 5], vec![5, high, high | 6]),
            ("NE", high | 5, 0, vec![5, high | 4, 0], vec![high | 5]),
            (
                "GT",
                high | 5,
                0,
                vec![high | 6, 8 << 32],
                vec![high | 5, 9],
            ),
            (
                "GE",
                high | 5,
                0,
                vec![high | 5, 8 << 32],
                vec![high | 4, 9],
            ),
            (
                "LT",
                high | 5,
                0,
                vec![high | 4, 9],
                vec![high | 5, 8 << 32],
            ),
            (
                "LE",
                high | 5,
                0,
                vec![high | 5, 9],
                vec![high | 6, 8 << 32],
            ),
            (
                "MASKED_EQ",
                high | 3,
                high | 1,
                vec![high | 5],
                vec![high | 2, 1],
            ),
        ] {
            let rule = serde_json::json!([{"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 2, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]}]);
            let code = compiled(rule);
            let with = |value| {
                run(&code, libc::SYS_write as u32, [0, 0, value, 0, 0, 0])
                    == libc::SECCOMP_RET_ALLOW
            };
            assert!(holds.iter().all(|value| with(*value)), "{op}");
            assert!(!not.iter().any(|value| with(*value)), "{op}");
        }
    }

    #[test]
    fn conditions_come_first_and_of_one_argument_any_is_enough() {
        let condition = |index: u32, value: u64| serde_json::json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
        let code = compiled(serde_json::json!([
            {"names": ["write"], "action": "SCMP_ACT_LOG"},
            {"names": ["write"], "action": "SCMP_ACT_ALLOW",
                "args": [condition(0, 1), condition(0, 2)]},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [condition(0, 1), condition(1, 2)]}]));
        let of = |number: libc::c_long, a, b| run(&code, number as u32, [a, b, 0, 0, 0, 0]);
        assert_eq!(of(libc::SYS_write, 2, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_write, 3, 0), libc::SECCOMP_RET_LOG);
        assert_eq!(of(libc::SYS_read, 1, 2), libc::SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_read, 1, 1), REFUSED);
    }

    #[test]
    fn what_is_no_profile_is_told() {
        let file = std::env::temp_dir().join(format!("no-profile-{}", std::process::id()));
        assert!(
            program(&file)
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
        fs::write(&file, "{\"defaultAction\": \"SCMP_ACT_DANCE\"}").unwrap();
        assert!(
            program(&file)
                .unwrap_err()
                .to_string()
                .contains("SCMP_ACT_DANCE")
        );
        fs::remove_file(&file).unwrap();
    }
}
