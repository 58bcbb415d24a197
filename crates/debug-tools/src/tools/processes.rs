//! Tools for processes.

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::options::{Options, ToolOptions, flags, misuse};
use crate::report::{ToolResult, complain, each};

/// Exit statuses of a program that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

pub fn ps(_: &[String], out: &mut dyn Write) -> ToolResult {
    let entries = fs::read_dir("/proc").context("/proc")?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut ids: Vec<u32> = names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    writeln!(
        out,
        "{:>5} {:>5} {:>5} S {:>7} COMMAND",
        "PID", "PPID", "UID", "MEMORY"
    )?;
    for id in ids {
        // The process may have ended since the list was read.
        if let Some(row) = row(id) {
            writeln!(out, "{row}")?;
        }
    }
    Ok(0)
}

fn row(id: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next())
            .unwrap_or("?")
    };
    let kilobytes: u64 = field("VmRSS").parse().unwrap_or_default();
    let memory = super::files::for_people(kilobytes * 1024);
    let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    let command = match words.is_empty() {
        true => format!("[{}]", field("Name")),
        false => words.join(" ").replace('\n', " "),
    };
    let (parent, user, state) = (field("PPid"), field("Uid"), field("State"));
    Some(format!(
        "{id:5} {parent:>5} {user:>5} {state} {memory:>7} {command}"
    ))
}

pub fn kill(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let (signal, ids) = match arguments {
        [first, ..] if first == "-l" => {
            for signal in Signal::iterator() {
                let name = signal.as_str().trim_start_matches("SIG").to_owned();
                writeln!(out, "{:2} {name}", signal as i32)?;
            }
            return Ok(0);
        }
        [first, name, ids @ ..] if first == "-s" => (Some(name.as_str()), ids),
        [first, ids @ ..] if first.starts_with('-') => (first.strip_prefix('-'), ids),
        ids => (None, ids),
    };
    if ids.is_empty() {
        return Err(misuse("the id of a process is missing"));
    }
    let signal = match signal {
        None => Some(Signal::SIGTERM),
        Some("0") => None,
        Some(name) => Some(signal_of(name)?),
    };
    each(ids, |id| {
        let id: i32 = id.parse().context("it is no id of a process")?;
        Ok(nix::sys::signal::kill(Pid::from_raw(id), signal)?)
    })
}

/// A signal by its number or its name, with or without `SIG`.
fn signal_of(text: &str) -> Result<Signal> {
    let wrong = || misuse(format!("{text:?} is no signal"));
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| wrong());
    }
    let name = text.to_uppercase();
    let name = match name.starts_with("SIG") {
        true => name,
        false => format!("SIG{name}"),
    };
    name.parse().map_err(|_| wrong())
}

pub fn env(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let tool_options = ToolOptions {
        flags: "i",
        ends_at_operand: true,
        ..ToolOptions::default()
    };
    let options = Options::read(arguments, tool_options)?;
    let mut variables: Vec<(String, String)> = match options.has('i') {
        true => Vec::new(),
        false => inherited(),
    };
    let mut words = &options.operands[..];
    while let Some((first, rest)) = words.split_first() {
        let Some((name, value)) = first.split_once('=') else {
            break;
        };
        variables.retain(|(other, _)| other != name);
        variables.push((name.to_owned(), value.to_owned()));
        words = rest;
    }
    let Some((program, rest)) = words.split_first() else {
        for (name, value) in variables {
            writeln!(out, "{name}={value}")?;
        }
        return Ok(0);
    };
    let error = Command::new(program)
        .args(rest)
        .env_clear()
        .envs(variables)
        .exec();
    Ok(not_started(program, &error))
}

fn inherited() -> Vec<(String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect()
}

fn not_started(program: &str, error: &io::Error) -> u8 {
    complain(&format!("{program}: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_STARTED,
    }
}

pub fn printenv(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let variables = inherited();
    if arguments.is_empty() {
        for (name, value) in variables {
            writeln!(out, "{name}={value}")?;
        }
        return Ok(0);
    }
    let mut status = 0;
    for argument in arguments {
        match variables.iter().find(|(name, _)| name == argument) {
            Some((_, value)) => writeln!(out, "{value}")?,
            None => status = 1,
        }
    }
    Ok(status)
}

/// The name of a user or a group in a file such as `/etc/passwd`.
fn name_of(file: &str, id: u32) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

pub fn id(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("ugn"))?;
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    match (options.has('u'), options.has('g')) {
        (true, _) if options.has('n') => return whoami(&[], out),
        (true, _) => writeln!(out, "{user}")?,
        (_, true) => writeln!(out, "{group}")?,
        _ => {
            let with_name = |file: &str, id: u32| match name_of(file, id) {
                Some(name) => format!("{id}({name})"),
                None => id.to_string(),
            };
            let groups = rustix::process::getgroups()?;
            let groups: Vec<String> = groups
                .iter()
                .map(|group| with_name("/etc/group", group.as_raw()))
                .collect();
            let (user, group) = (
                with_name("/etc/passwd", user),
                with_name("/etc/group", group),
            );
            writeln!(out, "uid={user} gid={group} groups={}", groups.join(","))?;
        }
    }
    Ok(0)
}

pub fn whoami(_: &[String], out: &mut dyn Write) -> ToolResult {
    let user = rustix::process::geteuid().as_raw();
    let name = name_of("/etc/passwd", user).unwrap_or_else(|| user.to_string());
    writeln!(out, "{name}")?;
    Ok(0)
}

pub fn which(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut status = 0;
    for name in arguments {
        let mut candidates = std::env::split_paths(&path).map(|candidate| candidate.join(name));
        match candidates.find(|candidate| candidate.is_file()) {
            Some(candidate) => writeln!(out, "{}", candidate.display())?,
            None => status = 1,
        }
    }
    Ok(status)
}

pub fn xargs(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let tool_options = ToolOptions {
        flags: "rt0",
        valued: "n",
        long: &[],
        ends_at_operand: true,
    };
    let options = Options::read(arguments, tool_options)?;
    let mut text = String::new();
    for line in io::stdin().lock().lines() {
        text.push_str(&line?);
        text.push('\n');
    }
    let words: Vec<&str> = match options.has('0') {
        true => text
            .trim_end()
            .split('\0')
            .filter(|word| !word.is_empty())
            .collect(),
        false => text.split_whitespace().collect(),
    };
    let most = options.number('n')?.unwrap_or(words.len()).max(1);
    let echo = ["echo".to_owned()];
    let command = match options.operands.is_empty() {
        true => &echo[..],
        false => &options.operands[..],
    };
    let Some((program, program_arguments)) = command.split_first() else {
        return Ok(0);
    };
    let mut status = 0;
    for words in words.chunks(most) {
        let ended = Command::new(program)
            .args(program_arguments)
            .args(words)
            .status();
        match ended {
            Ok(ended) if ended.success() => {}
            Ok(_) => status = 123,
            Err(error) => return Ok(not_started(program, &error)),
        }
    }
    Ok(status)
}
