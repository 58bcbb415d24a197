//! The processor time of a process, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// The processor time that the process has had, in user and in kernel mode.
pub(super) fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("{path} has no processor time"))?;
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let second = second.and_then(|ticks| u64::try_from(ticks).ok());
    let second = second
        .filter(|ticks| *ticks > 0)
        .context("ticks of a second")?;
    Ok(Duration::from_millis(ticks.saturating_mul(1000) / second))
}

/// The sum of `utime` and `stime`, the fields 14 and 15. The second field, the name in parentheses,
/// may contain spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    next()?.checked_add(next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_is_read() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 9 0 100 1 1";
        assert_eq!(ticks(line), Some(300));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn this_process_has_had_some() {
        assert!(processor_time(std::process::id()).is_ok());
        assert!(processor_time(u32::MAX).is_err());
    }
}
