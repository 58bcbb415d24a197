//! The streams of a process that the shim has started: a container's first process, or a command.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::OFlags;

use super::launch;
use super::log::{Log, Stream};
use super::worker::{self, Streams};
use crate::shim::limits::{INPUT_BYTES_MAX, READ_BYTES};
use crate::spec::TerminalSize;

/// The purpose of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The first process of a container.
    Container(String),
    /// A command in a container.
    Command {
        /// The process is killed if its client disconnects.
        kill_on_drop: bool,
    },
}

/// The shim's ends of a process's streams.
#[derive(Debug, Default)]
pub(crate) struct StreamEnds {
    pub stdin: Option<Rc<OwnedFd>>,
    pub outputs: [Option<Rc<OwnedFd>>; 2],
    /// The terminal; `None` until the process has sent it.
    pub terminal: Option<Rc<OwnedFd>>,
    terminal_socket: Option<OwnedFd>,
}

/// The requested streams of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StdioSetup {
    pub tty: bool,
    pub stdin: bool,
    /// User and group of the process, as ids of the node.
    pub owner: (u32, u32),
}

impl StreamEnds {
    /// Opens pipes or a socket for a terminal. Returns the ends of the shim, and the ends of the process.
    pub fn open(wiring: StdioSetup) -> io::Result<(StreamEnds, Streams)> {
        if wiring.tty {
            let (ours, theirs) = worker::terminal_socket()?;
            let ends = StreamEnds {
                terminal_socket: Some(ours),
                ..StreamEnds::default()
            };
            return Ok((
                ends,
                Streams {
                    pipes: None,
                    terminal: Some(theirs),
                },
            ));
        }
        let (stdin, their_stdin) = match wiring.stdin {
            true => {
                let (reader, writer) = pipe(wiring)?;
                set_nonblocking(&writer)?;
                (Some(Rc::new(writer)), reader)
            }
            false => (None, OwnedFd::from(File::open("/dev/null")?)),
        };
        let (stdout, their_stdout) = pipe(wiring)?;
        let (stderr, their_stderr) = pipe(wiring)?;
        set_nonblocking(&stdout)?;
        set_nonblocking(&stderr)?;
        let ends = StreamEnds {
            stdin,
            outputs: [Some(Rc::new(stdout)), Some(Rc::new(stderr))],
            terminal: None,
            terminal_socket: None,
        };
        let pipes = Some([their_stdin, their_stdout, their_stderr]);
        Ok((
            ends,
            Streams {
                pipes,
                terminal: None,
            },
        ))
    }

    /// Receives the terminal that the process has sent.
    pub fn receive_terminal(&mut self, wants_stdin: bool) {
        let Some(socket) = self.terminal_socket.take() else {
            return;
        };
        let Some(terminal) = launch::receive_descriptor(&socket) else {
            return;
        };
        // A blocking descriptor could block the shim. The terminal was opened as non-blocking, so a failure
        // is ignored.
        set_nonblocking(&terminal).ok();
        let terminal = Rc::new(terminal);
        self.stdin = wants_stdin.then(|| Rc::clone(&terminal));
        self.outputs[0] = Some(Rc::clone(&terminal));
        self.terminal = Some(terminal);
    }
}

fn pipe(wiring: StdioSetup) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // The container's user must be able to open `/dev/stdout` and similar paths.
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(wiring.owner.0),
        rustix::fs::Gid::from_raw(wiring.owner.1),
    );
    rustix::fs::fchown(&writer, Some(uid), Some(gid))?;
    Ok((reader, writer))
}

fn set_nonblocking<F: AsFd>(fd: F) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// A process in a container, with the shim's ends of its streams.
#[derive(Debug)]
pub(crate) struct Process {
    pub owner: Owner,
    pub pid: i32,
    pub ends: StreamEnds,
    pub sessions: Vec<u64>,
    pub log: Option<Log>,
    input: Vec<u8>,
    input_ends: bool,
}

/// The result of reading an output.
pub(crate) enum Output {
    Data(Vec<u8>),
    /// No data now.
    Empty,
    End,
}

impl Process {
    pub fn new(owner: Owner, pid: i32, ends: StreamEnds, log: Option<Log>) -> Process {
        Process {
            owner,
            pid,
            ends,
            sessions: Vec::new(),
            log,
            input: Vec::new(),
            input_ends: false,
        }
    }

    /// Reads once from an output. At the end of the output, closes it.
    pub fn read(&mut self, stream: Stream) -> Output {
        let Some(fd) = &self.ends.outputs[stream as usize] else {
            return Output::Empty;
        };
        let mut buffer = vec![0; READ_BYTES];
        match rustix::io::read(fd.as_fd(), &mut buffer[..]) {
            Ok(0) => {}
            Ok(count) => {
                buffer.truncate(count);
                return Output::Data(buffer);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Output::Empty,
            // A terminal that no process has open returns EIO.
            Err(_) => {}
        }
        self.ends.outputs[stream as usize] = None;
        Output::End
    }

    pub fn wants_input(&self) -> bool {
        self.input.len() < INPUT_BYTES_MAX
    }

    pub fn has_input(&self) -> bool {
        !self.input.is_empty() && self.ends.stdin.is_some()
    }

    /// Queues input from a client.
    pub fn push_input(&mut self, data: &[u8]) {
        if self.ends.stdin.is_some() && !self.input_ends {
            self.input.extend_from_slice(data);
            self.write_input();
        }
    }

    /// Closes the input after all queued input is written.
    pub fn end_input(&mut self) {
        self.input_ends = true;
        self.write_input();
    }

    /// Writes as much input as the process accepts now.
    pub fn write_input(&mut self) {
        while let Some(fd) = &self.ends.stdin
            && !self.input.is_empty()
        {
            match rustix::io::write(fd.as_fd(), &self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                // No process reads the input any more.
                Err(_) => {
                    self.ends.stdin = None;
                    self.input = Vec::new();
                }
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
            // A terminal's input cannot be closed; it ends with the session.
            if self.input_ends && self.ends.terminal.is_none() {
                self.ends.stdin = None;
            }
        }
    }

    /// Whether the process must get the rest of its input after its client has disconnected.
    pub fn takes_input_later(&self) -> bool {
        self.ends.terminal.is_none() && self.owner != Owner::Command { kill_on_drop: true }
    }

    /// Closes the streams of a command whose client has disconnected; a terminal hangs up. Queued input is
    /// written first.
    pub fn hang_up(&mut self) {
        if self.ends.terminal.is_some() {
            self.ends = StreamEnds::default();
            return;
        }
        self.ends.outputs = Default::default();
        self.end_input();
    }

    pub fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.ends.terminal {
            // The process may just have exited.
            launch::set_terminal_size(terminal.as_fd(), size).ok();
        }
    }
}
