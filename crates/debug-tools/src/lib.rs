//! A small shell and tools for containers whose image has none: the built-in images
//! `mainstay/hello` and `mainstay/debug`.
//!
//! The shell runs POSIX scripts without job control and traps. It starts every tool as a separate
//! process, by the name of a link to the program in `/bin`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod ending;
mod options;
mod report;
mod shell;
mod tools;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use report::{BROKEN_PIPE, complain};

/// The names of all tools and of the shell, in order.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = tools::TOOLS.iter().map(|tool| tool.name).collect();
    names.extend(shell::NAMES);
    names.sort_unstable();
    names
}

/// Runs the tool that the first argument names, as a path or as a bare name. None if there is no such
/// tool.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next()?;
    // A login shell has a dash before its name.
    let name = Path::new(&program).file_name()?.to_str()?;
    let name = name.strip_prefix('-').unwrap_or(name).to_owned();
    let arguments: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    if shell::NAMES.contains(&name.as_str()) {
        return Some(ExitCode::from(shell::main(&arguments)));
    }
    let tool = tools::find(&name)?;
    // Cannot fail, because a process has only one tool.
    report::set_tool(tool.name);
    ending::follow_signals_if_first();
    let mut out = io::stdout().lock();
    Some(ExitCode::from(finish(tool, &arguments, &mut out)))
}

/// Runs a tool and prints its error.
fn finish(tool: &tools::Tool, arguments: &[String], out: &mut dyn Write) -> u8 {
    let result = (tool.run)(arguments, out);
    let flushed = out.flush();
    let error = match (result, flushed) {
        (Ok(status), Ok(())) => return status,
        (Err(error), _) => error,
        (Ok(_), Err(error)) => error.into(),
    };
    let is_unread = error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    });
    if is_unread {
        return BROKEN_PIPE;
    }
    complain(&format!("{}: {error:#}", tool.name));
    match error.is::<options::UsageError>() {
        true => {
            complain(&format!("usage: {} {}", tool.name, tool.usage));
            2
        }
        false => 1,
    }
}
