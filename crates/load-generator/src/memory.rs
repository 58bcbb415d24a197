//! The memory of the server, by the counters of the kernel.

use anyhow::{Context, Result};

/// The memory of processes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All resident memory.
    pub resident: u64,
    /// Anonymous memory: neither code nor mapped files.
    pub anonymous: u64,
}

impl Memory {
    /// The sum over processes.
    pub fn of(pids: &[u32]) -> Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, &pid| {
            let one = Self::of_process(pid)?;
            Ok(Self {
                resident: sum.resident + one.resident,
                anonymous: sum.anonymous + one.anonymous,
            })
        })
    }

    fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("read {path}: --server-pid takes a process of this machine")
        })?;
        Self::parse(&text).with_context(|| format!("{path} does not say how much memory is used"))
    }

    fn parse(status: &str) -> Option<Self> {
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
            kibibytes.checked_mul(1024)
        };
        Some(Self {
            resident: of("VmRSS:")?,
            anonymous: of("RssAnon:")?,
        })
    }

    /// The growth per object; 0 if the memory shrank.
    pub fn grown_per(self, before: Self, count: u32) -> u64 {
        let grown = self.anonymous.saturating_sub(before.anonymous);
        grown / u64::from(count.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_is_read() {
        let text = "Name:\tmainstay\nVmRSS:\t   56320 kB\nRssAnon:\t   20480 kB\nThreads:\t4\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.resident, 56320 * 1024);
        assert_eq!(memory.anonymous, 20480 * 1024);
        assert_eq!(Memory::parse("Name:\tkthreadd\n"), None);
        assert_eq!(Memory::parse("VmRSS:\tmuch kB\nRssAnon:\t1 kB\n"), None);
    }

    #[test]
    fn growth_is_shared_out() {
        let of = |anonymous| Memory {
            resident: 0,
            anonymous,
        };
        assert_eq!(of(3000).grown_per(of(1000), 100), 20);
        assert_eq!(of(1000).grown_per(of(3000), 100), 0);
    }
}
