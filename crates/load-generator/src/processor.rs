//! The processor time of the server, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context, Result};

/// The time after the last response during which the server may still work for the requests: caches and controllers
/// process the changes.
pub const AFTER_THE_REPLY: Duration = Duration::from_millis(500);
/// Fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)), counted after the name, which ends with the last
/// parenthesis of the line.
const USER_TIME: usize = 11;

/// The processor time of processes since their start, in user mode and in the kernel.
pub fn time(pids: &[u32]) -> Result<Duration> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .context("ask for the length of a clock tick")?
        .and_then(|ticks| u32::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .context("the kernel does not say how long a clock tick is")?;
    pids.iter().try_fold(Duration::ZERO, |sum, pid| {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("read {path}: --server-pid takes processes of this machine")
        })?;
        let ticks = ticks(&text)
            .with_context(|| format!("{path} does not say how much processor time is used"))?;
        Ok(sum + Duration::from_secs(ticks) / per_second)
    })
}

fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(USER_TIME);
    let mut next = || fields.next()?.parse::<u64>().ok();
    next()?.checked_add(next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_is_read() {
        let stat = "4711 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 17 0 0 20 0 4 0 99";
        assert_eq!(ticks(stat), Some(267));
        assert_eq!(ticks("4711 (a) S 1 2"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn time_goes_on() {
        let this_process = [std::process::id()];
        let before = time(&this_process).unwrap();
        assert!(time(&this_process).unwrap() >= before);
        assert_eq!(time(&[]).unwrap(), Duration::ZERO);
    }
}
