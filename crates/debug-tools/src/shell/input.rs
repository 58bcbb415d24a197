//! Lines of standard input. They are read byte by byte, because the rest may be for a program that
//! the line starts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::run::Shell;

/// The input of a shell.
#[derive(Debug)]
pub struct Input {
    is_interactive: bool,
    /// Becomes readable after a Ctrl-C.
    interrupts: Option<OwnedFd>,
}

/// The result of reading a line.
#[derive(Debug)]
pub enum Line {
    /// A line with its end.
    Text(String),
    /// A Ctrl-C in place of a line.
    Interrupted,
    /// The end of the input.
    End,
}

impl Input {
    /// The standard input of the process.
    pub fn new(is_interactive: bool, interrupts: Option<OwnedFd>) -> Self {
        Self {
            is_interactive,
            interrupts,
        }
    }

    /// Whether a user types the input.
    pub fn is_interactive(&self) -> bool {
        self.is_interactive
    }

    /// The next line; an interactive input prints a prompt first.
    pub fn line(&self, shell: &Shell, goes_on: bool) -> Line {
        self.forget_interrupts();
        if self.is_interactive {
            shell.files.write(2, prompt(shell, goes_on).as_bytes()).ok();
        }
        let mut line = Vec::new();
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => {
                    shell.files.write(2, b"\n").ok();
                    return Line::Interrupted;
                }
                Err(_) => return Line::End,
            }
            match shell.files.read_byte() {
                Ok(Some(byte)) => line.push(byte),
                Ok(None) | Err(_) if line.is_empty() => return Line::End,
                Ok(None) | Err(_) => line.push(b'\n'),
            }
            if line.ends_with(b"\n") {
                return Line::Text(String::from_utf8_lossy(&line).into_owned());
            }
        }
    }

    /// Discards interrupts that were meant for the previous command.
    fn forget_interrupts(&self) {
        let Some(interrupts) = &self.interrupts else {
            return;
        };
        let mut waited = [PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waited, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
            rustix::io::read(interrupts, &mut [0; 16]).ok();
        }
    }

    /// Waits for input. Returns whether it is text and not an interrupt.
    fn wait(&self) -> io::Result<bool> {
        let Some(interrupts) = &self.interrupts else {
            return Ok(true);
        };
        let stdin = io::stdin();
        loop {
            let mut waited = [
                PollFd::new(interrupts.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [interrupted, readable] = waited.map(|fd| fd.any().unwrap_or(true));
            if interrupted {
                rustix::io::read(interrupts, &mut [0; 16])?;
                return Ok(false);
            }
            if readable {
                return Ok(true);
            }
        }
    }
}

fn prompt(shell: &Shell, goes_on: bool) -> String {
    if goes_on {
        return "> ".to_owned();
    }
    let sign = if rustix::process::geteuid().is_root() {
        '#'
    } else {
        '$'
    };
    format!("{} {sign} ", shell.state.directory.display())
}
