//! Tools for the machine, its disks and its clock.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};

use super::files::for_people;
use crate::options::{Options, flags, misuse};
use crate::report::{ToolResult, each};

pub fn date(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("u"))?;
    let now = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC);
    let format = match options.operands.first() {
        Some(format) => format
            .strip_prefix('+')
            .ok_or_else(|| misuse("a format begins with +"))?,
        None => "%a %b %e %H:%M:%S %Z %Y",
    };
    let text =
        jiff::fmt::strtime::format(format, &now).map_err(|error| misuse(error.to_string()))?;
    writeln!(out, "{text}")?;
    Ok(0)
}

pub fn sleep(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags(""))?;
    for word in options.some_operands()? {
        let time = duration(word).ok_or_else(|| misuse(format!("{word:?} is no time")))?;
        std::thread::sleep(time);
    }
    Ok(0)
}

/// `5`, `0.5`, `2m`, `infinity`
fn duration(word: &str) -> Option<Duration> {
    if word == "infinity" {
        return Some(Duration::MAX);
    }
    let (digits, seconds) = match word.chars().last()? {
        's' => (&word[..word.len() - 1], 1.0),
        'm' => (&word[..word.len() - 1], 60.0),
        'h' => (&word[..word.len() - 1], 3600.0),
        'd' => (&word[..word.len() - 1], 86400.0),
        _ => (word, 1.0),
    };
    let number: f64 = digits.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

pub fn hostname(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("fsi"))?;
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut lines = hosts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.iter().skip(1).any(|word| *word == name));
    let word = |number: usize| Some((*line.as_ref()?.get(number)?).to_owned());
    let text = match (options.has('i'), options.has('f')) {
        (true, _) => word(0).context("the name is not in /etc/hosts")?,
        (false, true) => word(1).unwrap_or(name),
        (false, false) => name,
    };
    writeln!(out, "{text}")?;
    Ok(0)
}

pub fn uname(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("asnrvmo"))?;
    let facts = rustix::system::uname();
    let all = [
        ('s', facts.sysname()),
        ('n', facts.nodename()),
        ('r', facts.release()),
        ('v', facts.version()),
        ('m', facts.machine()),
    ];
    let is_plain = !all.iter().any(|(letter, _)| options.has(*letter));
    let selected = all.iter().filter(|(letter, _)| {
        options.has('a') || options.has(*letter) || (is_plain && *letter == 's')
    });
    let words: Vec<_> = selected.map(|(_, text)| text.to_string_lossy()).collect();
    writeln!(out, "{}", words.join(" "))?;
    Ok(0)
}

pub fn uptime(_: &[String], out: &mut dyn Write) -> ToolResult {
    let text = fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    let seconds: f64 = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_default();
    let minutes = (seconds / 60.0) as u64;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let load = load.join(", ");
    writeln!(
        out,
        "up {days} days, {hours}:{minutes:02}, load average: {load}"
    )?;
    Ok(0)
}

pub fn free(_: &[String], out: &mut dyn Write) -> ToolResult {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let words = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
        let kilobytes: u64 = words.and_then(|word| word.parse().ok()).unwrap_or_default();
        for_people(kilobytes * 1024)
    };
    let (total, free, available) = (value("MemTotal"), value("MemFree"), value("MemAvailable"));
    writeln!(
        out,
        "of the machine: {total} in all, {free} free, {available} available"
    )?;
    Ok(0)
}

/// The mounts: path, source, options.
fn mounts() -> Result<Vec<(String, String, String, String)>> {
    let text = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let rows = text.lines().filter_map(|line| {
        let mut words = line.split(' ').map(|word| word.replace("\\040", " "));
        Some((words.next()?, words.next()?, words.next()?, words.next()?))
    });
    Ok(rows.collect())
}

pub fn mount(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    if !arguments.is_empty() {
        return Err(misuse("this one only shows what is mounted"));
    }
    for (source, target, kind, how) in mounts()? {
        writeln!(out, "{source} on {target} type {kind} ({how})")?;
    }
    Ok(0)
}

pub fn df(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("hkTP"))?;
    let mounts = mounts()?;
    let mut paths = options.operands.clone();
    let is_named = !paths.is_empty();
    if !is_named {
        paths = mounts
            .iter()
            .map(|(_, target, ..)| target.clone())
            .collect();
        paths.sort_unstable();
        paths.dedup();
    }
    writeln!(
        out,
        "{:>9} {:>9} {:>9} {:>4} where",
        "size", "used", "free", "full"
    )?;
    each(&paths, |path| {
        let facts = match rustix::fs::statvfs(path) {
            Ok(facts) => facts,
            // A mount may be inaccessible; only a mount that the user named is an error.
            Err(_) if !is_named => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if facts.f_blocks == 0 && !is_named {
            return Ok(());
        }
        let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
        let used = facts.f_blocks.saturating_sub(facts.f_bfree);
        let formatted = |blocks: u64| match options.has('h') {
            true => for_people(bytes(blocks)),
            false => (bytes(blocks) / 1024).to_string(),
        };
        let usable = (used + facts.f_bavail).max(1);
        let full = (used * 100).div_ceil(usable);
        let (size, used, free) = (
            formatted(facts.f_blocks),
            formatted(used),
            formatted(facts.f_bavail),
        );
        writeln!(out, "{size:>9} {used:>9} {free:>9} {full:>3}% {path}")?;
        Ok(())
    })
}

pub fn sync(_: &[String], _: &mut dyn Write) -> ToolResult {
    rustix::fs::sync();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "x", "-1", "1y", "ä"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
